"""State hashes, resume certificates and pruning of checkpoints."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Protocol, TypeVar

from pydantic import ConfigDict

from domain.core.counts import Count, Size
from domain.core.value import Value

KEPT_NEWEST = 2
"""Least number of newest checkpoints that an unfinished job keeps. The last one may be damaged."""


def checkpoint_model(model: str, step: int) -> str:
    """Return the name of a deployed checkpoint. `model` is the name of the job's model."""
    return f"{model}:ckpt-step-{step}"


class StateHashes(Value):
    """SHA-256 hashes of the parts of a trainer's state."""

    weights: str  # weights of the adapter
    optimizer: str
    random: str  # random states of all ranks
    position: str  # position in the data: seed, epoch, step and plan

    def differing(self, other: StateHashes) -> tuple[str, ...]:
        """Return the names of the parts that differ from those of `other`."""
        return tuple(
            name for name in type(self).model_fields if getattr(self, name) != getattr(other, name)
        )


class ModeDifference(Value):
    """An execution setting that changed between a checkpoint and a resume from it."""

    setting: str  # name, such as `threads`
    saved: str
    now: str


class RejectionReason(StrEnum):
    """Reasons why a segment could not resume from a checkpoint."""

    MISSING = "missing"
    CORRUPT = "corrupt"  # the hash of a file or of the manifest differs
    UNREADABLE = "unreadable"  # a rank could not read the checkpoint
    STATE_DIFFERS = "state_differs"  # the restored state differs from the saved state


class ResumeCertificate(Value):
    """Proof that a segment restored the state that is saved in a checkpoint."""

    step: Count
    ref: str  # artifact prefix of the checkpoint
    state: StateHashes  # hashes that the segment recomputed after the restore
    unchecked: tuple[str, ...]  # parts of the state for which the checkpoint has no hash
    ranks: Count
    differences: tuple[ModeDifference, ...]  # differences in execution settings


class SavedCheckpoint(Value):
    """A checkpoint that is durably stored in the artifact store, with its manifest."""

    model_config = ConfigDict(allow_inf_nan=False)

    segment: Count
    step: Count  # number of completed optimizer steps
    train_loss: float  # loss of this step, in nats per trainable token
    eval_loss: float | None = None  # loss of the held-out examples; None: not evaluated
    elapsed_seconds: Count  # seconds of the segment until the saved state
    ref: str  # artifact prefix; <ref>/manifest.json lists every file with its SHA-256 hash
    manifest_sha256: str
    total_bytes: Size
    state: StateHashes | None = None


def is_newer(saved: SavedCheckpoint, than: SavedCheckpoint | None) -> bool:
    """Return True if a checkpoint was saved after another one, maybe at the same step."""

    def order(each: SavedCheckpoint) -> tuple[int, int, bool]:
        return each.segment, each.step, each.eval_loss is not None

    return than is None or order(than) < order(saved)


class Evaluated(Protocol):
    """Protocol of objects with an optional held-out loss, in nats per trainable token."""

    @property
    def eval_loss(self) -> float | None: ...


E = TypeVar("E", bound=Evaluated)


def best(saved: Iterable[E]) -> E | None:
    """Return the first checkpoint with the lowest held-out loss; None if none has a loss."""
    scored = [(each.eval_loss, each) for each in saved if each.eval_loss is not None]
    return min(scored, key=lambda pair: pair[0])[1] if scored else None


def superfluous(
    saved: Sequence[SavedCheckpoint], newest: int, kept_refs: Collection[str] = ()
) -> list[SavedCheckpoint]:
    """Return what to prune: not the last `newest`, the one of the lowest loss, or `kept_refs`."""
    replaced = {each.ref for each, later in pairwise(saved) if each.step == later.step}
    rest = [each for each in saved if each.ref not in replaced]
    kept = {each.ref for each in rest[-newest:]} | set(kept_refs)
    if (lowest := best(saved)) is not None:
        kept.add(lowest.ref)
    return [each for each in saved if each.ref not in kept]
