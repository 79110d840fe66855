"""Detection of divergence: a finite loss that is far worse than the base's."""

from __future__ import annotations

import math
from dataclasses import dataclass

from services.trainer.failures import LossDiverged
from services.trainer.progress import Progress

PATIENCE_STEPS = 5
"""Consecutive optimizer steps that count as divergence. A single bad batch is only one step. With
the wizard's defaults, five steps are 80 examples, so a diverged run costs little."""

REFERENCE_STEPS = 5
"""Number of first steps whose highest loss is the reference. The adapter has hardly changed by
then. A single step may happen to have easy examples."""

DIVERGED_NATS = 1.5
"""Loss above the base's that counts as far worse: e^1.5 = 4.5 times the perplexity."""

LEARNED_NATS = 1.0
"""A loss above that of guessing counts only after some step's loss was this far below it. The loss
of an untrained base is close to that of guessing, above or below."""


@dataclass(frozen=True)
class Line:
    """A loss threshold above which a run counts as diverging."""

    loss: float  # nats per token
    meaning: str

    def __str__(self) -> str:
        return f"{self.loss:.4f} ({self.meaning})"


class Divergence:
    """A check of the mean loss of each optimizer step, after `progress` has counted the step.

    LoRA's B starts at zero (Hu et al., 2021), so the losses of the first steps are those of the
    base. A step is above the threshold if its loss is 1.5 nats above the highest of them. Once some
    step was 1 nat better than uniform guessing, a step is also above the threshold if it is worse
    than uniform guessing. Uniform guessing has a loss of ln(vocabulary) nats on any data. After
    five consecutive steps above a threshold, the run has diverged. It cannot recover, because the
    learning rate only falls. A loss below both thresholds never ends a run, because a false alarm
    would end a good one.

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
        """Return True if the newest step was above the threshold."""
        return self._progress.suspect_steps > 0

    @property
    def line(self) -> Line | None:
        """The lower of the thresholds in force. It does not change while steps are above it."""
        progress, lines = self._progress, list[Line]()
        if progress.starting_loss is not None:
            meaning = (
                f"{DIVERGED_NATS} nats above {progress.starting_loss:.4f}, the highest loss of the "
                f"first {REFERENCE_STEPS} steps"
            )
            lines.append(Line(progress.starting_loss + DIVERGED_NATS, meaning))
        lowest = progress.lowest_loss
        if lowest is not None and lowest <= self._guessing_loss - LEARNED_NATS:
            meaning = f"the loss of guessing all tokens alike; the lowest loss was {lowest:.4f}"
            lines.append(Line(self._guessing_loss, meaning))
        return min(lines, key=lambda line: line.loss, default=None)

    def take(self, loss: float) -> None:
        """Check the mean loss of the newest step, in nats.

        Raise LossDiverged if the run has diverged.
        """
        progress = self._progress
        self._newest_loss = loss
        self._refer_to(loss)
        line = self.line
        above = line is not None and loss > line.loss
        progress.suspect_steps = progress.suspect_steps + 1 if above else 0
        if progress.suspect_steps == PATIENCE_STEPS:
            raise LossDiverged(
                f"The loss of steps {progress.step - PATIENCE_STEPS + 1} to step {progress.step} "
                f"was above {line}. It is {loss:.4f} now."
            )

    def conclude(self, loss_before: float, loss_after: float) -> None:
        """Check a finished run by its held-out loss, in nats, without and with the adapter.

        A run that ends suspect has diverged if its held-out loss is above the threshold too. Any
        run has diverged if its held-out loss is far above the base's, unless its training loss is
        below the base's. Such a run has memorised its examples, which may be intended. Raise
        LossDiverged if the run has diverged.
        """
        line, step = self.line, self._progress.step
        if self.suspect and line is not None and loss_after > line.loss:
            raise LossDiverged(
                f"The losses of the last {self._progress.suspect_steps} steps, up to step {step}, "
                f"were above {line}. So is the held-out loss: {loss_after:.4f}."
            )
        learned = self._newest_loss is None or self._newest_loss <= loss_before
        if not learned and loss_after > loss_before + DIVERGED_NATS:
            raise LossDiverged(
                f"The held-out loss after step {step} is {loss_after:.4f}, more than "
                f"{DIVERGED_NATS} nats above the base's {loss_before:.4f} on the same examples. "
                f"The training loss of that step is {self._newest_loss:.4f}."
            )

    def _refer_to(self, loss: float) -> None:
        """Add the loss to the reference if the step is one of the first."""
        progress = self._progress
        if progress.step == 1:
            progress.starting_loss = loss
        elif progress.step <= REFERENCE_STEPS and progress.starting_loss is not None:
            progress.starting_loss = max(progress.starting_loss, loss)
