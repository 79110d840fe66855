"""Progress: how far a segment has got, and what it measured on the way."""

from __future__ import annotations

from dataclasses import dataclass, field

from domain.training.smoothed_loss import SmoothedLoss
from services.trainer.training import Step


@dataclass(frozen=True)
class BeforeSaving:
    """What saving a checkpoint changes, as it was before."""

    saved_step: int  # of the checkpoint before
    best_step: int | None
    best_eval_loss: float | None


@dataclass
class Progress:
    """Running counters; `take` counts an optimizer step that was done."""

    step: int = 0  # optimizer steps done, over all segments
    saved_step: int = 0  # of the newest checkpoint
    trained_tokens: int = 0  # without padding, over all segments
    train_loss: float = 0.0  # of the newest step: mean over its label tokens, nats
    smoothed_loss: SmoothedLoss = field(default_factory=SmoothedLoss)  # over all segments
    eval_loss: float | None = None  # held-out, nats per label token; None: not at this step
    lowest_loss: float | None = None  # of an optimizer step, over all segments
    starting_loss: float | None = None  # the highest of the first steps; None: not known any more
    suspect_steps: int = 0  # in a row up to here that were above the line of divergence
    best_step: int | None = None  # the checkpoint of the lowest held-out loss, over all segments
    best_eval_loss: float | None = None
    segment_tokens: int = 0
    segment_seconds: float = 0.0

    def take(self, step: Step, total_steps: int) -> None:
        """Count a step of a run of `total_steps`."""
        self.step += 1
        self.trained_tokens += step.tokens
        self.train_loss = step.loss
        self.smoothed_loss = self.smoothed_loss.after(step.loss, total_steps)
        self.eval_loss = None
        if self.lowest_loss is None or step.loss < self.lowest_loss:
            self.lowest_loss = step.loss
        self.segment_tokens += step.tokens
        self.segment_seconds += step.seconds

    @property
    def tokens_per_second(self) -> float:
        """Speed of this segment's training, without padding."""
        return self.segment_tokens / self.segment_seconds

    @property
    def is_best(self) -> bool:
        """Whether this step's held-out loss is lower than any before; the same in every rank."""
        best = self.best_eval_loss
        return self.eval_loss is not None and (best is None or self.eval_loss < best)

    def note_checkpoint(self) -> BeforeSaving:
        """A checkpoint of this step is about to be saved; it may be the best one."""
        before = BeforeSaving(self.saved_step, self.best_step, self.best_eval_loss)
        if self.is_best:
            self.best_step, self.best_eval_loss = self.step, self.eval_loss
        self.saved_step = self.step
        return before

    def forget_checkpoint(self, before: BeforeSaving) -> None:
        """Take back `note_checkpoint`, for the newest checkpoint was not stored."""
        self.saved_step = before.saved_step
        self.best_step, self.best_eval_loss = before.best_step, before.best_eval_loss
