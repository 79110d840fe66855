"""Checkpoints: all that exact continuation needs, written so that half of one is never seen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from domain.estimating.estimate import Precision
from domain.jobs.failures import FailureClass
from domain.training.checkpoint import RejectionReason, SavedCheckpoint, StateHashes
from domain.training.hyperparameters import Hyperparameters
from domain.training.smoothed_loss import SmoothedLoss
from infrastructure.artifacts import ArtifactCorrupt, Artifacts
from infrastructure.reports import SAMPLE, SegmentSpec
from services.trainer import first_schema
from services.trainer.execution import ExecutionMode
from services.trainer.failures import SegmentFailure
from services.trainer.model import describe_adapter
from services.trainer.processes.ranks import Ranks
from services.trainer.sampling import Sample
from services.trainer.state import TrainingState

POSITION = "position.json"

SCHEMA_VERSION = 3
"""Of `position.json`; a field that an older trainer must not overlook needs the next one.

1: torch's files. 2: packed files. 3: the data's position is also of the examples' content.
"""


class CheckpointMismatch(SegmentFailure):
    """An intact checkpoint is of another job or another trainer than the segment."""

    failure = FailureClass.CHECKPOINT_MISMATCH


class CheckpointDamaged(Exception):
    """A checkpoint is not, or no longer, what was saved; another one may be."""

    def __init__(self, reason: RejectionReason, detail: object) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class Position(BaseModel):
    """Where a job stands after `step` optimizer steps, and what it must be continued with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    step: int
    trained_tokens: int
    train_loss: float  # of this step: mean over its label tokens, nats
    smoothed_loss: SmoothedLoss = SmoothedLoss()
    dataset_sha256: str
    base_model: str
    hyperparameters: Hyperparameters
    precision: Precision = Precision.BF16  # checkpoints that do not say had no other
    mode: ExecutionMode
    state: StateHashes | None = None
    validation_sha256: str | None = None  # of the user's own examples, if they are evaluated on
    eval_loss: float | None = None  # held-out, nats per label token; None: not evaluated here
    lowest_loss: float | None = None  # of an optimizer step up to here
    starting_loss: float | None = None  # the highest of the first steps; None: an older trainer's
    suspect_steps: int = 0  # in a row up to here that were above the line of divergence
    best_step: int | None = None  # the checkpoint of the lowest held-out loss up to here
    best_eval_loss: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_flat_mode(cls, fields: Any) -> Any:
        """Checkpoints once named dtype, threads and ranks beside the rest."""
        if not isinstance(fields, dict) or "mode" in fields:
            return fields
        flat = {name: fields[name] for name in ("dtype", "threads", "ranks") if name in fields}
        rest = {name: value for name, value in fields.items() if name not in flat}
        return rest | {"mode": flat}

    @classmethod
    def read(cls, path: Path) -> Position:
        """The position in a file; raises CheckpointMismatch if another trainer wrote it."""
        content = json.loads(path.read_text())
        version = content.setdefault("schema_version", 1)
        if version > SCHEMA_VERSION:
            raise CheckpointMismatch(
                f"a newer trainer wrote the checkpoint: its {POSITION} has schema version "
                f"{version}, and this trainer reads up to {SCHEMA_VERSION}"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise CheckpointMismatch(
                f"this trainer cannot read the {POSITION} of the checkpoint: {error}"
            ) from error

    def require_job(self, spec: SegmentSpec) -> None:
        """Raise CheckpointMismatch if this is a position of another run."""
        for name in (
            "dataset_sha256",
            "base_model",
            "hyperparameters",
            "precision",
            "validation_sha256",
        ):
            if getattr(self, name) != getattr(spec, name):
                raise CheckpointMismatch(f"the checkpoint has another {name}")


def write(
    directory: Path,
    model: PeftModel,
    state: TrainingState,
    position: Position,
    sample: Sample | None = None,
) -> dict[str, str]:
    """Write a checkpoint directory; returns the sha256 of its large files.

    The adapter lies there as plain PEFT, so that a checkpoint can be inspected without us.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    written = state.write(directory)
    describe_adapter(model, directory)
    (directory / POSITION).write_text(position.model_dump_json(indent=1))
    if sample is not None:
        (directory / SAMPLE).write_text(sample.model_dump_json(indent=1))
    return written


def fetch(artifacts: Artifacts, saved: SavedCheckpoint, scratch: Path) -> tuple[Path, Position]:
    """Copy a checkpoint from the store, held against the hashes that the event log has.

    Raises CheckpointDamaged for files that are not what was stored, and CheckpointMismatch. A store
    that cannot be reached damages nothing.
    """
    directory = scratch / "resumed"
    shutil.rmtree(directory, ignore_errors=True)
    try:
        manifest = artifacts.get_directory(saved.ref, directory)
    except FileNotFoundError as error:
        raise CheckpointDamaged(RejectionReason.MISSING, error) from error
    except ArtifactCorrupt as error:
        raise CheckpointDamaged(RejectionReason.CORRUPT, error) from error
    if manifest.sha256 != saved.manifest_sha256:
        raise CheckpointDamaged(RejectionReason.CORRUPT, f"{saved.ref} has another manifest")
    return directory, Position.read(directory / POSITION)


def restore(
    directory: Path,
    position: Position,
    model: PeftModel,
    optimizer: torch.optim.Optimizer,
    ranks: Ranks,
) -> None:
    """Put adapter, optimizer and this rank's random states back as they were.

    The files are what was stored: an error in reading them (no memory, a bad disk) is the
    machine's, and says nothing against the checkpoint. Raises CheckpointMismatch if what they hold
    has no place in this trainer.
    """
    try:
        if position.schema_version == 1:
            first_schema.put_back(directory, model, optimizer, ranks)
        else:
            TrainingState.read(directory).put_back(model, optimizer, ranks)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointMismatch(f"the saved state does not fit this trainer: {error!r}") from error


def live_hashes(
    position: Position,
    model: PeftModel,
    optimizer: torch.optim.Optimizer,
    ranks: Ranks,
    data_position: str,
) -> StateHashes:
    """sha256 of the live state's parts, as those of the checkpoint with a position were made."""
    if position.schema_version == 1:
        return first_schema.hashes(model, optimizer, ranks, data_position)
    return TrainingState.of(model, optimizer, ranks).hashes(data_position)
