"""State hashes, resume certificates and pruning of checkpoints."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum
from typing import Protocol, TypeVar

from pydantic import ConfigDict

from domain.core.counts import Count
from domain.core.value import Value

KEPT_NEWEST = 2
"""Number of newest checkpoints kept for an unfinished job. The last one may be damaged."""


def checkpoint_model(model: str, step: int) -> str:
    """Return the model name of a deployed checkpoint. `model` is the name of the job's model."""
    return f"{model}:ckpt-step-{step}"


class StateHashes(Value):
    """SHA-256 hashes of the parts of a trainer's state."""

    weights: str  # of the adapter
    optimizer: str
    random: str  # of every rank
    position: str  # in the data: seed, epoch, step and plan

    def differing(self, other: StateHashes) -> tuple[str, ...]:
        """Return the names of the parts whose hashes differ."""
        return tuple(
            name for name in type(self).model_fields if getattr(self, name) != getattr(other, name)
        )


class ModeDifference(Value):
    """An execution setting that changed between a checkpoint and its resume."""

    setting: str  # such as `threads`
    saved: str
    now: str


class RejectionReason(StrEnum):
    """Reasons why a segment could not resume from a checkpoint."""

    MISSING = "missing"
    CORRUPT = "corrupt"  # the hash of a file or of the manifest differs
    UNREADABLE = "unreadable"  # by a rank
    STATE_DIFFERS = "state_differs"  # the restored state differs from the saved state


class ResumeCertificate(Value):
    """Proof that a segment restored the state that was saved in a checkpoint."""

    step: int
    ref: str  # artifact prefix of the checkpoint
    state: StateHashes  # recomputed after the restore
    unchecked: tuple[str, ...]  # parts of the state that have no hash to compare with
    ranks: int
    differences: tuple[ModeDifference, ...]  # in the execution


class SavedCheckpoint(Value):
    """A checkpoint whose manifest is stored durably in the artifact store."""

    model_config = ConfigDict(allow_inf_nan=False)

    segment: Count
    step: Count  # completed optimizer steps
    train_loss: float  # of this step, in nats per label token
    eval_loss: float | None = None  # of the held-out examples, if evaluated
    elapsed_seconds: Count  # of its segment, up to the saved state
    ref: str  # artifact prefix; <ref>/manifest.json names every file with its sha256
    manifest_sha256: str
    total_bytes: int
    state: StateHashes | None = None


class Evaluated(Protocol):
    """Protocol of objects that may have a held-out loss, in nats per label token."""

    @property
    def eval_loss(self) -> float | None: ...


E = TypeVar("E", bound=Evaluated)


def best(saved: Iterable[E]) -> E | None:
    """Return the first checkpoint with the lowest held-out loss; None if none was evaluated."""
    scored = [(each.eval_loss, each) for each in saved if each.eval_loss is not None]
    return min(scored, key=lambda pair: pair[0])[1] if scored else None


def superfluous(
    saved: Sequence[SavedCheckpoint], newest: int, kept_refs: Collection[str] = ()
) -> list[SavedCheckpoint]:
    """Return the checkpoints to prune. `saved` is sorted from the oldest to the newest.

    Keep the `newest` last ones, the one with the lowest held-out loss, and those in `kept_refs`.
    """
    kept = {each.ref for each in saved[-newest:]} | set(kept_refs)
    if (lowest := best(saved)) is not None:
        kept.add(lowest.ref)
    return [each for each in saved if each.ref not in kept]
