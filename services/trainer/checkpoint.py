"""Checkpoints: all that exact continuation needs, written so that half of one is never seen."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from domain.checkpoint import RejectionReason, SavedCheckpoint, StateHashes
from domain.estimate import Precision
from domain.failures import FailureClass
from domain.hyperparameters import Hyperparameters
from infrastructure.artifacts import ArtifactCorrupt, Artifacts, Manifest
from infrastructure.reports import SAMPLE, SegmentSpec
from services.trainer.execution import ExecutionMode
from services.trainer.failures import SegmentFailure
from services.trainer.model import save_adapter
from services.trainer.ranks import Ranks
from services.trainer.sampling import Sample
from services.trainer.state import TrainingState, restore_random

STATE, POSITION = "state.pt", "position.json"

SCHEMA_VERSION = 1
"""Of `position.json`; a field that an older trainer must not overlook needs the next one."""


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
    train_loss: float  # mean over the label tokens of the steps since the checkpoint before, nats
    dataset_sha256: str
    base_model: str
    hyperparameters: Hyperparameters
    precision: Precision = Precision.BF16  # checkpoints that do not say had no other
    mode: ExecutionMode
    state: StateHashes | None = None
    validation_sha256: str | None = None  # of the user's own examples, if they are evaluated on
    eval_loss: float | None = None  # held-out, nats per label token; None: not evaluated here
    lowest_loss: float | None = None  # of an optimizer step up to here
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
        content = path.read_text()
        version = json.loads(content).get("schema_version", 1)
        if version > SCHEMA_VERSION:
            raise CheckpointMismatch(
                f"a newer trainer wrote the checkpoint: its {POSITION} has schema version "
                f"{version}, and this trainer reads up to {SCHEMA_VERSION}"
            )
        try:
            return cls.model_validate_json(content)
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


def save(
    artifacts: Artifacts,
    ref: str,
    scratch: Path,
    model: PeftModel,
    state: TrainingState,
    position: Position,
    sample: Sample | None,
) -> Manifest:
    """Write a checkpoint and make it durable in the artifact store; returns its manifest."""
    directory = scratch / "checkpoints" / f"step-{position.step:06d}"
    write(directory, model, state, position, sample)
    manifest = artifacts.put_directory(ref, directory)
    shutil.rmtree(directory)
    return manifest


def write(
    directory: Path,
    model: PeftModel,
    state: TrainingState,
    position: Position,
    sample: Sample | None = None,
) -> None:
    """Write a checkpoint directory: under a temporary name, flushed, then renamed.

    The adapter lies there as plain PEFT, so that a checkpoint can be inspected without us.
    """
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_adapter(model, partial, state.weights)
    # Into a file of Python's, for torch's own hides the system's error, such as a full disk.
    with (partial / STATE).open("wb") as file:
        torch.save({"optimizer": state.optimizer, **state.random}, file)
    (partial / POSITION).write_text(position.model_dump_json(indent=1))
    if sample is not None:
        (partial / SAMPLE).write_text(sample.model_dump_json(indent=1))
    for path in [*partial.iterdir(), partial]:
        _flush(path)
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)
    _flush(directory.parent)


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
    directory: Path, model: PeftModel, optimizer: torch.optim.Optimizer, ranks: Ranks
) -> None:
    """Put adapter, optimizer and this rank's random states back as they were.

    The files are what was stored: an error in reading them (no memory, a bad disk) is the
    machine's, and says nothing against the checkpoint. Raises CheckpointMismatch if what they hold
    has no place in this trainer.
    """
    weights = load_peft_weights(str(directory), device="cpu")
    state = torch.load(directory / STATE, map_location="cpu", weights_only=True)
    try:
        set_peft_model_state_dict(model, weights)
        optimizer.load_state_dict(state.pop("optimizer"))
        restore_random(state, ranks)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointMismatch(f"the saved state does not fit this trainer: {error!r}") from error


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
