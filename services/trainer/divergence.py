"""Detection of divergence, which is a finite loss far above that of the base model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from services.trainer.failures import LossDiverged
from services.trainer.progress import Progress

PATIENCE_STEPS = 5
"""Number of consecutive optimizer steps that count as divergence. A bad batch is only one step."""

REFERENCE_STEPS = 5
"""Number of first steps whose highest loss is the reference. They hardly change the adapter."""

DIVERGED_NATS = 1.5
"""Loss above that of the base model that counts as far above: e^1.5 = 4.5 times the perplexity."""

LEARNED_NATS = 1.0
"""Margin in nats below guessing that a step must reach to make guessing a threshold."""


@dataclass(frozen=True)
class Threshold:
    """A loss above which a run counts as diverging."""

    loss: float  # nats per trainable token
    meaning: str

    def __str__(self) -> str:
        return f"{self.loss:.4f} ({self.meaning})"


class Divergence:
    """A check of the mean loss of each optimizer step, after `progress` has counted the step.

    The losses of the first steps are those of the base model, because LoRA's B starts at zero (Hu
    et al., 2021). The threshold is 1.5 nats above the highest of them. Once some step was 1 nat
    better than uniform guessing, whose loss is ln(vocabulary) nats on any data, the loss of
    guessing is a threshold too. After five consecutive steps above a threshold, the run has
    diverged. It cannot recover, because the learning rate only falls.

    While the newest steps are above a threshold, the run is `suspect` and is not saved, so the
    newest checkpoint stays a good one. Only a stop saves a suspect run, with the number of suspect
    steps, so that the next segment continues the count. All ranks see the same losses and reach the
    same decision.
    """

    def __init__(self, vocabulary: int, progress: Progress) -> None:
        self._guessing_loss = math.log(vocabulary)
        self._progress = progress
        self._newest_loss: float | None = None  # newest loss in this segment

    @property
    def suspect(self) -> bool:
        """True if the newest step was above the threshold."""
        return self._progress.suspect_steps > 0

    @property
    def threshold(self) -> Threshold | None:
        """Lower of the thresholds in force. It does not change while steps are above it."""
        progress, thresholds = self._progress, list[Threshold]()
        if progress.starting_loss is not None:
            meaning = (
                f"{DIVERGED_NATS} nats above {progress.starting_loss:.4f}, the highest loss of the "
                f"first {REFERENCE_STEPS} steps"
            )
            thresholds.append(Threshold(progress.starting_loss + DIVERGED_NATS, meaning))
        lowest = progress.lowest_loss
        if lowest is not None and lowest <= self._guessing_loss - LEARNED_NATS:
            meaning = f"the loss of guessing all tokens alike; the lowest loss was {lowest:.4f}"
            thresholds.append(Threshold(self._guessing_loss, meaning))
        return min(thresholds, key=lambda each: each.loss, default=None)

    def take(self, loss: float) -> None:
        """Check the mean loss of the newest step, in nats. Raise LossDiverged on divergence."""
        progress = self._progress
        self._newest_loss = loss
        if progress.step == 1:
            progress.starting_loss = loss
        elif progress.step <= REFERENCE_STEPS and progress.starting_loss is not None:
            progress.starting_loss = max(progress.starting_loss, loss)
        threshold = self.threshold
        above = threshold is not None and loss > threshold.loss
        progress.suspect_steps = progress.suspect_steps + 1 if above else 0
        if progress.suspect_steps == PATIENCE_STEPS:
            raise LossDiverged(
                f"From step {progress.step - PATIENCE_STEPS + 1:,} to step {progress.step:,}, the "
                f"loss was above {threshold}. It is now {loss:.4f}."
            )

    def conclude(self, loss_before: float, loss_after: float) -> None:
        """Raise LossDiverged if a finished run has diverged, by its held-out loss in nats.

        `loss_before` is without the adapter, and `loss_after` with it.

        A run that ends suspect has diverged if its held-out loss is above the threshold too. Any
        run has diverged if its held-out loss is far above that of the base model, unless its
        training loss is below that of the base model. Such a run has memorized its examples, which
        may be intended.
        """
        threshold, step = self.threshold, self._progress.step
        if self.suspect and threshold is not None and loss_after > threshold.loss:
            raise LossDiverged(
                f"The losses of the last {self._progress.suspect_steps} steps, up to step "
                f"{step:,}, were above {threshold}. The held-out loss is also above it: "
                f"{loss_after:.4f}."
            )
        learned = self._newest_loss is None or self._newest_loss <= loss_before
        if not learned and loss_after > loss_before + DIVERGED_NATS:
            raise LossDiverged(
                f"The held-out loss after step {step:,} is {loss_after:.4f}, more than "
                f"{DIVERGED_NATS} nats above the base model's loss of {loss_before:.4f} on the "
                f"same examples. The training loss of that step is {self._newest_loss:.4f}."
            )
