"""The checkpoints of a job that are not deleted."""

from __future__ import annotations

from domain.training.checkpoint import SavedCheckpoint


class Checkpoints(tuple[SavedCheckpoint, ...]):
    """An immutable collection of checkpoints, from the oldest to the newest."""

    __slots__ = ()

    @property
    def newest(self) -> SavedCheckpoint | None:
        """Checkpoint from which the job would resume; None if there is none."""
        return self[-1] if self else None

    @property
    def step(self) -> int:
        """Step of the newest checkpoint; 0 if there is none."""
        return self[-1].step if self else 0

    def find(self, ref: str) -> SavedCheckpoint | None:
        """Return the checkpoint with this artifact prefix, or None."""
        return next((each for each in self if each.ref == ref), None)

    def saved_seconds(self, segment: int) -> int:
        """Return the seconds of a segment that its checkpoints include."""
        return max((each.elapsed_seconds for each in self if each.segment == segment), default=0)

    def including(self, saved: SavedCheckpoint) -> Checkpoints:
        """Return a copy with `saved` as the newest checkpoint."""
        return Checkpoints((*self, saved))

    def without(self, ref: str) -> Checkpoints:
        """Return a copy without the checkpoint with this artifact prefix."""
        return Checkpoints(each for each in self if each.ref != ref)

    def scored(self, step: int, eval_loss: float) -> Checkpoints:
        """Return a copy with `eval_loss` on the newest checkpoint, if that is at `step`."""
        if self.step != step or not self:
            return self
        return Checkpoints((*self[:-1], self[-1].model_copy(update={"eval_loss": eval_loss})))
