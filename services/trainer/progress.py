"""The running counters of a segment."""

from __future__ import annotations

from dataclasses import dataclass, field

from domain.training.smoothed_loss import SmoothedLoss
from services.trainer.training import Step


@dataclass(frozen=True)
class BeforeSaving:
    """The counters that saving a checkpoint changes, as they were before."""

    saved_step: int  # step of the previous checkpoint
    best_step: int | None
    best_eval_loss: float | None


@dataclass
class Progress:
    """Running counters, over all segments unless noted otherwise."""

    step: int = 0  # optimizer steps done
    saved_step: int = 0  # step of the newest checkpoint
    trained_tokens: int = 0  # without padding
    train_loss: float = 0.0  # newest step's loss in nats, mean over its label tokens
    smoothed_loss: SmoothedLoss = field(default_factory=SmoothedLoss)
    eval_loss: float | None = None  # held-out, nats per label token; None: not at this step
    lowest_loss: float | None = None  # lowest loss of any optimizer step
    starting_loss: float | None = None  # the highest of the first steps
    suspect_steps: int = 0  # consecutive newest steps above the divergence threshold
    best_step: int | None = None  # step of the checkpoint with the lowest held-out loss
    best_eval_loss: float | None = None
    segment_tokens: int = 0
    segment_seconds: float = 0.0

    def take(self, step: Step, total_steps: int) -> None:
        """Count one step of a run of `total_steps`."""
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
        """Training speed of this segment, excluding padding."""
        return self.segment_tokens / self.segment_seconds

    @property
    def is_best(self) -> bool:
        """Return True if this step's held-out loss is the lowest so far. Equal in all ranks."""
        best = self.best_eval_loss
        return self.eval_loss is not None and (best is None or self.eval_loss < best)

    def note_checkpoint(self) -> BeforeSaving:
        """Record that a checkpoint of this step is being saved."""
        before = BeforeSaving(self.saved_step, self.best_step, self.best_eval_loss)
        if self.is_best:
            self.best_step, self.best_eval_loss = self.step, self.eval_loss
        self.saved_step = self.step
        return before

    def forget_checkpoint(self, before: BeforeSaving) -> None:
        """Undo `note_checkpoint`, because the newest checkpoint was not stored."""
        self.saved_step = before.saved_step
        self.best_step, self.best_eval_loss = before.best_step, before.best_eval_loss
