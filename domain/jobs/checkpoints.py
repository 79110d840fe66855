"""The checkpoints of a job that were not deleted."""

from __future__ import annotations

from domain.training.checkpoint import SavedCheckpoint


class Checkpoints(tuple[SavedCheckpoint, ...]):
    """An immutable collection of checkpoints, ordered from the oldest to the newest."""

    __slots__ = ()

    @property
    def newest(self) -> SavedCheckpoint | None:
        """The checkpoint from which the job would resume."""
        return self[-1] if self else None

    @property
    def step(self) -> int:
        """Step of the newest checkpoint; 0 if there is none."""
        return self[-1].step if self else 0

    def find(self, ref: str) -> SavedCheckpoint | None:
        """Return the checkpoint with this artifact prefix, or None."""
        return next((each for each in self if each.ref == ref), None)

    def saved_seconds(self, segment: int) -> int:
        """Return the seconds of a segment whose work is saved in a checkpoint."""
        return max((each.elapsed_seconds for each in self if each.segment == segment), default=0)

    def including(self, saved: SavedCheckpoint) -> Checkpoints:
        """Return the collection with a new newest checkpoint."""
        return Checkpoints((*self, saved))

    def without(self, ref: str) -> Checkpoints:
        """Return the collection without the checkpoint with this artifact prefix."""
        return Checkpoints(each for each in self if each.ref != ref)

    def scored(self, step: int, eval_loss: float) -> Checkpoints:
        """Return the collection with the newest checkpoint's held-out loss, if it has this step."""
        if self.step != step or not self:
            return self
        return Checkpoints((*self[:-1], self[-1].model_copy(update={"eval_loss": eval_loss})))
