"""JobCheckpoints: what a job's trainers save, resume from, lose and no longer need, as events."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from typing import Any, ClassVar

from eventsourcing.domain import event

from domain.core.aggregate import Aggregate, Event
from domain.core.errors import Invalid
from domain.core.money import charge_micros
from domain.training.checkpoint import (
    KEPT_NEWEST,
    ModeDifference,
    RejectionReason,
    SavedCheckpoint,
    StateHashes,
    superfluous,
)


class JobCheckpoints(Aggregate):
    """The part of a job that holds its checkpoints, and the time that they stand for."""

    class CheckpointSaved(Event):
        """A checkpoint of the running segment is durable in the artifact store."""

        TOPIC: ClassVar[str] = "CheckpointSaved"
        class_version: ClassVar[int] = 2
        segment: int
        step: int
        train_loss: float
        eval_loss: float | None  # on the held-out examples, if it was evaluated
        elapsed_seconds: int
        ref: str
        manifest_sha256: str
        total_bytes: int
        state: StateHashes | None

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            """The first version hashed no state, and was never evaluated."""
            state["state"] = None
            state["eval_loss"] = None

    class CheckpointRejected(Event):
        """The running segment could not resume from a checkpoint, and takes the one before it."""

        TOPIC: ClassVar[str] = "CheckpointRejected"
        segment: int
        step: int
        ref: str
        reason: RejectionReason
        saved_in: int  # the segment whose work it held
        kept_seconds: int | None  # of that segment's time; None: a later checkpoint holds its work

    class ResumeCertified(Event):
        """The running segment goes on from a checkpoint, with the state that was saved in it."""

        TOPIC: ClassVar[str] = "ResumeCertified"
        segment: int
        step: int
        ref: str
        state: StateHashes  # hashed anew, after it was restored
        unchecked: tuple[str, ...]  # parts of it that there was nothing to compare with
        ranks: int
        differences: tuple[ModeDifference, ...]  # in how it is computed

    class CheckpointPruned(Event):
        """Newer or better checkpoints stand in for this one; its files are deleted."""

        TOPIC: ClassVar[str] = "CheckpointPruned"
        step: int
        ref: str

    def __init__(self) -> None:
        self.step = 0
        self.checkpoints: list[SavedCheckpoint] = []  # that exist, the oldest first
        self.furthest_step = 0  # that was ever saved
        self.crashes: int = 0  # since the last checkpoint that got further
        self.certified_segment = 0  # the last that resumed from a checkpoint
        self.model: str | None = None
        self.adapter_ref: str | None = None  # of the model
        self.adapter_manifest_sha256: str | None = None  # of the model
        self.paid: dict[int, tuple[int, int]] = {}  # by segment: rate, seconds that the user pays

    @abstractmethod
    def _require_running(self, segment: int) -> None:
        """Raise StaleSegment unless this segment runs."""

    @property
    def checkpoint(self) -> SavedCheckpoint | None:
        """Where the job would be taken up again."""
        return self.checkpoints[-1] if self.checkpoints else None

    @property
    def actual_seconds(self) -> int:
        """Time that the user pays for, over all segments."""
        return sum(seconds for _, seconds in self.paid.values())

    @property
    def actual_micros(self) -> int:
        """What that time costs."""
        return sum(charge_micros(rate, seconds) for rate, seconds in self.paid.values())

    def save_checkpoint(
        self,
        segment: int,
        step: int,
        train_loss: float,
        elapsed_seconds: int,
        ref: str,
        manifest_sha256: str,
        total_bytes: int,
        state: StateHashes | None = None,
        eval_loss: float | None = None,
    ) -> None:
        """Record a durable checkpoint; one that is not newer than the last changes nothing."""
        self._require_running(segment)
        last = self.checkpoint
        if last is not None and (last.segment, last.step) >= (segment, step):
            return
        self.trigger_event(
            self.CheckpointSaved,
            segment=segment,
            step=step,
            train_loss=train_loss,
            eval_loss=eval_loss,
            elapsed_seconds=elapsed_seconds,
            ref=ref,
            manifest_sha256=manifest_sha256,
            total_bytes=total_bytes,
            state=state,
        )

    @event(CheckpointSaved)
    def _checkpoint_saved(
        self,
        segment: int,
        step: int,
        eval_loss: float | None,
        elapsed_seconds: int,
        ref: str,
        manifest_sha256: str,
        state: StateHashes | None,
    ) -> None:
        if step > self.furthest_step:
            self.crashes, self.furthest_step = 0, step
        self.step = step
        self.checkpoints.append(
            SavedCheckpoint(
                segment=segment,
                step=step,
                ref=ref,
                manifest_sha256=manifest_sha256,
                elapsed_seconds=elapsed_seconds,
                state=state,
                eval_loss=eval_loss,
            )
        )

    def _score_checkpoint(self, step: int, eval_loss: float) -> None:
        """The last checkpoint holds, if it is there, the state that is evaluated in the end."""
        last = self.checkpoint
        if last is not None and last.step == step:
            self.checkpoints[-1] = last.model_copy(update={"eval_loss": eval_loss})

    def reject_checkpoint(self, segment: int, ref: str, reason: RejectionReason) -> None:
        """Give up a checkpoint that the running segment could not resume from; once."""
        self._require_running(segment)
        lost = next((each for each in self.checkpoints if each.ref == ref), None)
        if lost is not None:
            self.trigger_event(
                self.CheckpointRejected,
                segment=segment,
                step=lost.step,
                ref=ref,
                reason=reason,
                saved_in=lost.segment,
                kept_seconds=self._kept_without(lost),
            )

    def _kept_without(self, lost: SavedCheckpoint) -> int | None:
        """How much of its segment's time is still in a checkpoint; None if all that it held is."""
        if lost is not self.checkpoint:
            return None
        before = [each for each in self.checkpoints[:-1] if each.segment == lost.segment]
        return before[-1].elapsed_seconds if before else 0

    @event(CheckpointRejected)
    def _checkpoint_rejected(self, ref: str, saved_in: int, kept_seconds: int | None) -> None:
        self.checkpoints = [each for each in self.checkpoints if each.ref != ref]
        self.step = self.checkpoint.step if self.checkpoint else 0
        if kept_seconds is not None and saved_in in self.paid:
            rate, seconds = self.paid[saved_in]
            self.paid[saved_in] = rate, min(seconds, kept_seconds)

    def certify_resume(
        self,
        segment: int,
        step: int,
        ref: str,
        state: StateHashes,
        unchecked: tuple[str, ...],
        ranks: int,
        differences: tuple[ModeDifference, ...],
    ) -> None:
        """Record what a segment resumed from, and that it is what was saved; once a segment.

        Raises Invalid where the job has no such checkpoint, or another state was saved in it.
        """
        self._require_running(segment)
        if self.certified_segment < segment:
            self._require_saved(step, ref, state, unchecked)
            self.trigger_event(
                self.ResumeCertified,
                segment=segment,
                step=step,
                ref=ref,
                state=state,
                unchecked=unchecked,
                ranks=ranks,
                differences=differences,
            )

    def _require_saved(
        self, step: int, ref: str, state: StateHashes, unchecked: tuple[str, ...]
    ) -> None:
        """Raise Invalid unless this state, but for its unchecked parts, is a checkpoint's own."""
        saved = next((each for each in self.checkpoints if each.ref == ref), None)
        if saved is None or saved.step != step:
            raise Invalid(f"the job has no checkpoint {ref} of step {step}", field="resumed.ref")
        differing = set(state.differing(saved.state or state)) - set(unchecked)
        if differing:
            raise Invalid(
                f"{ref} was saved with another state: {', '.join(sorted(differing))} differ",
                field="resumed.state",
            )

    @event(ResumeCertified)
    def _resume_certified(self, segment: int) -> None:
        self.certified_segment = segment

    def prune_checkpoints(self, deployed: Collection[str] = ()) -> None:
        """Give up the checkpoints that nobody needs; once there is a model, most of them.

        `deployed` are the refs of those that are served.
        """
        newest = KEPT_NEWEST if self.model is None else 1
        kept = [*deployed, *(() if self.adapter_ref is None else (self.adapter_ref,))]
        for each in superfluous(self.checkpoints, newest, kept):
            self.trigger_event(self.CheckpointPruned, step=each.step, ref=each.ref)

    @event(CheckpointPruned)
    def _checkpoint_pruned(self, ref: str) -> None:
        self.checkpoints = [each for each in self.checkpoints if each.ref != ref]
