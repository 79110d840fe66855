"""Checkpoints: all that exact continuation needs, written so that half of one is never seen."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from safetensors import SafetensorError

from domain.checkpoint import RejectionReason, SavedCheckpoint, StateHashes
from domain.estimate import Precision
from domain.hyperparameters import Hyperparameters
from infrastructure.artifacts import ArtifactCorrupt, Artifacts, Manifest
from infrastructure.reports import SAMPLE, SegmentSpec
from services.trainer.execution import ExecutionMode
from services.trainer.model import save_adapter
from services.trainer.ranks import Ranks
from services.trainer.sampling import Sample
from services.trainer.state import TrainingState, restore_random

STATE, POSITION = "state.pt", "position.json"


class CheckpointMismatch(Exception):
    """The checkpoint is of another dataset, base or configuration than the segment."""


class CheckpointDamaged(Exception):
    """A checkpoint is not, or no longer, what was saved; another one may be."""

    def __init__(self, reason: RejectionReason, detail: object) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class Position(BaseModel):
    """Where a job stands after `step` optimizer steps, and what it must be continued with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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

    Raises CheckpointDamaged. A store that cannot be reached damages nothing.
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
    try:
        position = Position.model_validate_json((directory / POSITION).read_text())
    except (FileNotFoundError, ValidationError) as error:
        raise CheckpointDamaged(RejectionReason.UNREADABLE, error) from error
    return directory, position


def restore(
    directory: Path, model: PeftModel, optimizer: torch.optim.Optimizer, ranks: Ranks
) -> None:
    """Put adapter, optimizer and this rank's random states back as they were.

    Raises CheckpointDamaged.
    """
    try:
        weights = load_peft_weights(str(directory), device="cpu")
        state = torch.load(directory / STATE, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, UnpicklingError, SafetensorError) as error:
        raise CheckpointDamaged(RejectionReason.UNREADABLE, error) from error
    set_peft_model_state_dict(model, weights)
    optimizer.load_state_dict(state.pop("optimizer"))
    restore_random(state, ranks)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
