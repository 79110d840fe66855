"""The running counters of a job and of its current segment."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from domain.training.early_stopping import EarlyStop
from domain.training.smoothed_loss import SmoothedLoss
from services.trainer.training import Step


class EvaluatedStep(NamedTuple):
    """The state after an optimizer step, and its held-out loss."""

    step: int
    loss: float  # in nats per trainable token, or per pair with DPO


class Counters(BaseModel):
    """Counters over all segments of a job, which every checkpoint stores."""

    model_config = ConfigDict(extra="forbid")

    step: int = 0  # number of completed optimizer steps
    trained_tokens: int = 0  # without padding
    train_loss: float = 0.0  # loss of the newest step, in nats per trainable token
    smoothed_loss: SmoothedLoss = SmoothedLoss()
    # Held-out loss in nats per trainable token; None: not at this step.
    eval_loss: float | None = None
    lowest_loss: float | None = None  # lowest loss of any optimizer step
    starting_loss: float | None = None  # highest loss of the first steps
    suspect_steps: int = 0  # consecutive newest steps above the divergence threshold
    best_step: int | None = None  # step of the checkpoint with the lowest held-out loss
    best_eval_loss: float | None = None
    # Of all evaluations, saved or not.
    lowest_eval_step: int | None = None
    lowest_eval_loss: float | None = None
    stale_evaluations: int = 0  # consecutive newest evaluations that did not lower the loss enough

    def values(self) -> dict[str, Any]:
        """Return the counters by name, without the fields of subclasses."""
        return {name: getattr(self, name) for name in Counters.model_fields}


class Progress(Counters):
    """The counters of a running segment."""

    saved_step: int = 0  # step of the newest checkpoint
    segment_tokens: int = 0
    segment_seconds: float = 0.0

    @classmethod
    def resumed(cls, saved: Counters | None) -> Progress:
        """Continue the counters of a checkpoint, or start from zero."""
        return cls() if saved is None else cls(**saved.values(), saved_step=saved.step)

    def take(self, step: Step, total_steps: int) -> None:
        self.step += 1
        self.trained_tokens += step.tokens
        self.train_loss = step.loss
        self.smoothed_loss = self.smoothed_loss.after(step.loss, total_steps)
        self.eval_loss = None
        if self.lowest_loss is None or step.loss < self.lowest_loss:
            self.lowest_loss = step.loss
        self.segment_tokens += step.tokens
        self.segment_seconds += step.seconds

    def take_evaluation(self, loss: float, threshold: float) -> None:
        """Record a held-out loss. As in transformers, it must be lower by `threshold` to count."""
        lowest = self.lowest_eval_loss
        self.eval_loss = loss
        lower = lowest is None or lowest - loss > threshold
        self.stale_evaluations = 0 if lower else self.stale_evaluations + 1
        if lowest is None or loss < lowest:
            self.lowest_eval_step, self.lowest_eval_loss = self.step, loss

    def early_stop(self, patience: int | None, planned_steps: int) -> EarlyStop | None:
        """Return the early stop at this step, or None if training continues or is complete."""
        stale = patience is not None and self.stale_evaluations >= patience
        if not stale or self.step == planned_steps or self.eval_loss is None:
            return None
        assert self.lowest_eval_step is not None
        assert self.lowest_eval_loss is not None
        return EarlyStop(
            step=self.step,
            planned_steps=planned_steps,
            evaluations=self.stale_evaluations,
            eval_loss=self.eval_loss,
            lowest_step=self.lowest_eval_step,
            lowest_eval_loss=self.lowest_eval_loss,
        )

    @property
    def tokens_per_second(self) -> float:
        """Training speed of this segment, excluding padding."""
        return self.segment_tokens / self.segment_seconds

    @property
    def best(self) -> EvaluatedStep | None:
        """The saved step with the lowest held-out loss, or None if none was evaluated."""
        if self.best_step is None or self.best_eval_loss is None:
            return None
        return EvaluatedStep(self.best_step, self.best_eval_loss)

    @property
    def is_best(self) -> bool:
        """True if the held-out loss of this step is the lowest so far. All ranks agree."""
        best = self.best_eval_loss
        return self.eval_loss is not None and (best is None or self.eval_loss < best)

    def note_checkpoint(self) -> Progress:
        """Record that a checkpoint of this step is being saved. Return the previous counters."""
        before = self.model_copy()
        if self.is_best:
            self.best_step, self.best_eval_loss = self.step, self.eval_loss
        self.saved_step = self.step
        return before

    def forget_checkpoint(self, before: Progress) -> None:
        """Undo `note_checkpoint`, because the newest checkpoint was not stored."""
        self.saved_step = before.saved_step
        self.best_step, self.best_eval_loss = before.best_step, before.best_eval_loss
