"""Checkpoints: all that exact continuation needs, written so that half of one is never seen."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from pydantic import BaseModel, ConfigDict

from domain.estimate import Precision
from domain.hyperparameters import Hyperparameters
from infrastructure.artifacts import Artifacts, Manifest
from services.trainer.model import save_adapter
from services.trainer.random_state import RandomState
from services.trainer.ranks import Ranks

STATE, POSITION = "state.pt", "position.json"


class CheckpointMismatch(Exception):
    """The checkpoint is of another dataset, base or configuration than the segment."""


class Position(BaseModel):
    """Where a job stands after `step` optimizer steps, and what it must be continued with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    trained_tokens: int
    train_loss: float  # mean over the label tokens of the steps since the checkpoint before, nats
    dataset_sha256: str
    base_model: str
    hyperparameters: Hyperparameters
    dtype: str  # of the base, or computed in; kept on resume, for another one rounds differently
    threads: int  # of torch's own; another number may sum in another order
    precision: Precision = Precision.BF16  # checkpoints that do not say had no other
    ranks: int = 1
    validation_sha256: str | None = None  # of the user's own examples, if they are evaluated on
    eval_loss: float | None = None  # held-out, nats per label token; None: not evaluated here
    lowest_loss: float | None = None  # of an optimizer step up to here
    best_step: int | None = None  # the checkpoint of the lowest held-out loss up to here
    best_eval_loss: float | None = None

    def require_same_job(self, other: Position) -> None:
        """Raise CheckpointMismatch if the other position belongs to another run."""
        for name in (
            "dataset_sha256",
            "base_model",
            "hyperparameters",
            "precision",
            "ranks",
            "validation_sha256",
        ):
            if getattr(self, name) != getattr(other, name):
                raise CheckpointMismatch(f"the checkpoint has another {name}")


def write(
    directory: Path,
    model: PeftModel,
    optimizer: torch.optim.Optimizer,
    position: Position,
    random: dict[str, torch.Tensor],
) -> None:
    """Write a checkpoint directory: under a temporary name, flushed, then renamed.

    The adapter lies there as plain PEFT, so that a checkpoint can be inspected without us.
    """
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_adapter(model, partial)
    # Into a file of Python's, for torch's own hides the system's error, such as a full disk.
    with (partial / STATE).open("wb") as file:
        torch.save({"optimizer": optimizer.state_dict(), **random}, file)
    (partial / POSITION).write_text(position.model_dump_json(indent=1))
    for path in [*partial.iterdir(), partial]:
        _flush(path)
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)
    _flush(directory.parent)


def save(
    artifacts: Artifacts,
    ref: str,
    scratch: Path,
    model: PeftModel,
    optimizer: torch.optim.Optimizer,
    position: Position,
    random: dict[str, torch.Tensor],
) -> Manifest:
    """Write a checkpoint and make it durable in the artifact store; returns its manifest."""
    directory = scratch / "checkpoints" / f"step-{position.step:06d}"
    write(directory, model, optimizer, position, random)
    manifest = artifacts.put_directory(ref, directory)
    shutil.rmtree(directory)
    return manifest


def fetch(artifacts: Artifacts, ref: str, scratch: Path) -> tuple[Path, Position]:
    """Copy a checkpoint from the store, every hash verified; raises ArtifactCorrupt."""
    directory = scratch / "resumed"
    shutil.rmtree(directory, ignore_errors=True)
    artifacts.get_directory(ref, directory)
    return directory, Position.model_validate_json((directory / POSITION).read_text())


def random_states(ranks: Ranks) -> dict[str, torch.Tensor]:
    """torch's random states, a row for each rank; nothing else is drawn from during training."""
    mine = RandomState.of(ranks.device)
    states = {"rng": ranks.gather(mine.cpu)}
    if mine.cuda is not None:
        states["rng_cuda"] = ranks.gather(mine.cuda)
    return states


def restore(
    directory: Path, model: PeftModel, optimizer: torch.optim.Optimizer, ranks: Ranks
) -> None:
    """Put adapter, optimizer and this rank's random states back as they were."""
    set_peft_model_state_dict(model, load_peft_weights(str(directory), device=str(ranks.device)))
    state = torch.load(directory / STATE, map_location="cpu", weights_only=True)
    optimizer.load_state_dict(state["optimizer"])
    # The state of a single rank was once stored without rows.
    cpu = state["rng"].view(ranks.count, -1)[ranks.rank]
    cuda = state["rng_cuda"][ranks.rank] if "rng_cuda" in state else None
    RandomState(cpu, cuda).restore(ranks.device)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
