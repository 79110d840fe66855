"""What a job has saved: where it can be taken up again, how it is known, and what is kept."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

KEPT_NEWEST = 2
"""Checkpoints of an unfinished job that are kept because they are new: one may be damaged."""


def checkpoint_model(model: str, step: int) -> str:
    """The name under which a checkpoint of a job answers; `model` is that of the job's model."""
    return f"{model}:ckpt-step-{step}"


class StateHashes(BaseModel):
    """sha256 of a trainer's live state, by its parts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: str  # of the adapter
    optimizer: str
    random: str  # of every rank
    position: str  # in the data: seed, epoch, step and the plan

    def differing(self, other: StateHashes) -> tuple[str, ...]:
        """Names of the parts whose hashes differ."""
        return tuple(
            name for name in type(self).model_fields if getattr(self, name) != getattr(other, name)
        )


class ModeDifference(BaseModel):
    """A setting of the execution in which a resumed segment differs from its checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    setting: str  # such as `threads`
    saved: str
    now: str


class RejectionReason(StrEnum):
    """Why a checkpoint could not be resumed from."""

    MISSING = "missing"
    CORRUPT = "corrupt"  # a file, or the manifest, is not what was stored
    UNREADABLE = "unreadable"  # by another rank, or so before every file was held to its hash
    STATE_DIFFERS = "state_differs"  # restored, its state is not the one that was saved


class SavedCheckpoint(BaseModel):
    """Where a job can be taken up again."""

    model_config = ConfigDict(frozen=True)

    segment: int
    step: int
    ref: str  # artifact prefix
    manifest_sha256: str
    elapsed_seconds: int  # of its segment: the work of this time is in it
    state: StateHashes | None = None  # None: saved before there were any
    eval_loss: float | None = None  # nats per label token, if it was evaluated


class Evaluated(Protocol):
    """What may have a held-out loss."""

    @property
    def eval_loss(self) -> float | None:
        """Nats per label token; None: it was not evaluated."""
        ...


class Stored(Evaluated, Protocol):
    """A checkpoint, known by its artifact prefix."""

    @property
    def ref(self) -> str:
        """Artifact prefix."""
        ...


E = TypeVar("E", bound=Evaluated)
S = TypeVar("S", bound=Stored)


def best(saved: Iterable[E]) -> E | None:
    """That with the lowest held-out loss, the first of equals; None if none was evaluated."""
    scored = [(each.eval_loss, each) for each in saved if each.eval_loss is not None]
    return min(scored, key=lambda pair: pair[0])[1] if scored else None


def superfluous(saved: Sequence[S], newest: int, kept_refs: Collection[str] = ()) -> list[S]:
    """Which of a job's checkpoints, oldest first, nobody needs any more.

    Kept are the `newest` ones, the best by held-out loss, and those with one of `kept_refs`.
    """
    kept = {each.ref for each in saved[-newest:]} | set(kept_refs)
    if (lowest := best(saved)) is not None:
        kept.add(lowest.ref)
    return [each for each in saved if each.ref not in kept]
