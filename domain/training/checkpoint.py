"""What a job has saved: where it can be taken up again, how it is known, and what is kept."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from domain.core.counts import Count

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


class ResumeCertificate(BaseModel):
    """Proof that a segment resumed from a checkpoint with the state that was saved in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    ref: str  # artifact prefix of the checkpoint
    state: StateHashes  # computed again after the restore
    unchecked: tuple[str, ...]  # parts of the state without a hash to compare with
    ranks: int
    differences: tuple[ModeDifference, ...]  # in how the segment computes


class SavedCheckpoint(BaseModel):
    """A checkpoint whose manifest is durable in the artifact store."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    segment: Count
    step: Count  # optimizer steps done
    train_loss: float  # of this step: mean over its label tokens, nats
    eval_loss: float | None = None  # nats per label token of the held-out examples, if evaluated
    elapsed_seconds: Count  # of its segment, up to the state that it has
    ref: str  # artifact prefix; <ref>/manifest.json names every file with its sha256
    manifest_sha256: str
    total_bytes: int
    state: StateHashes | None = None


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
