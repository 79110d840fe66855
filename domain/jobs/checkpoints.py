"""The checkpoints of a job that still exist."""

from __future__ import annotations

from domain.training.checkpoint import SavedCheckpoint


class Checkpoints(tuple[SavedCheckpoint, ...]):
    """Checkpoints from the oldest to the newest. A changed collection is a new one."""

    __slots__ = ()

    @property
    def newest(self) -> SavedCheckpoint | None:
        """The checkpoint that the job would resume from."""
        return self[-1] if self else None

    @property
    def step(self) -> int:
        """Step of the newest checkpoint; 0 without one."""
        return self[-1].step if self else 0

    def find(self, ref: str) -> SavedCheckpoint | None:
        """Return the checkpoint with this artifact prefix."""
        return next((each for each in self if each.ref == ref), None)

    def saved_seconds(self, segment: int) -> int:
        """Seconds of a segment whose work is in a checkpoint."""
        return max((each.elapsed_seconds for each in self if each.segment == segment), default=0)

    def including(self, saved: SavedCheckpoint) -> Checkpoints:
        """Add the newest checkpoint."""
        return Checkpoints((*self, saved))

    def without(self, ref: str) -> Checkpoints:
        """Remove the checkpoint with this artifact prefix."""
        return Checkpoints(each for each in self if each.ref != ref)

    def scored(self, step: int, eval_loss: float) -> Checkpoints:
        """Set the held-out loss of the newest checkpoint, if it was saved at this step."""
        if self.step != step or not self:
            return self
        return Checkpoints((*self[:-1], self[-1].model_copy(update={"eval_loss": eval_loss})))
