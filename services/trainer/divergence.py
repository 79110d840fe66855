"""Divergence: when a finite loss says that the adapter is far worse than the base without it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from services.trainer.failures import LossDiverged
from services.trainer.progress import Progress

PATIENCE_STEPS = 5
"""Optimizer steps in a row that make a divergence. A bad batch is one step; five are 80 examples by
the wizard's defaults, and few enough that little is paid for in vain."""

REFERENCE_STEPS = 5
"""The first ones of a run, of which the highest loss is the reference: the adapter has hardly moved
yet, and the examples of one step alone may be easy ones."""

DIVERGED_NATS = 1.5
"""How far above the base a loss is far worse: e^1.5, or 4.5 times as bad a guess of each token."""

LEARNED_NATS = 1.0
"""How far below guessing a step's loss must have been, before being above it says anything: the
loss of an untrained base lies around that of guessing, on either side of it."""


@dataclass(frozen=True)
class Line:
    """A loss above which a step says that the adapter is worse than none."""

    loss: float  # nats a token
    meaning: str

    def __str__(self) -> str:
        return f"{self.loss:.4f} ({self.meaning})"


class Divergence:
    """Watches the mean loss of a run's optimizer steps, after `progress` has counted each.

    LoRA's B begins at zero (Hu et al., 2021), so that the losses of the first steps are the base's
    own on this data: a step that is 1.5 nats above the highest of them is above the line. So is one
    that is worse than guessing every token of the vocabulary alike, which loses ln(vocabulary) on
    whatever data, once a step was well below that (by 1 nat). Five such steps in a row, and the
    model has been destroyed; no schedule brings it back, for its learning rate only falls. How
    large a loss is otherwise too large depends on the base and the data, so that nothing below both
    lines ever counts: a wrong guess would end a good run.

    While the newest steps are above a line the run is `suspect`, and is not saved: the last good
    checkpoint stays the last one. Only a stop saves it, with the number of such steps, for one that
    is resumed to go on with. A checkpoint from before there was a reference has none, and its run
    gets none. Every rank sees the same losses and decides alike.
    """

    def __init__(self, vocabulary: int, progress: Progress) -> None:
        self._guessing_loss = math.log(vocabulary)
        self._progress = progress
        self._newest_loss: float | None = None  # of the segment

    @property
    def suspect(self) -> bool:
        """Whether the newest step was above the line."""
        return self._progress.suspect_steps > 0

    @property
    def line(self) -> Line | None:
        """The lower of the lines that are in force, which does not change while steps are above."""
        progress, lines = self._progress, list[Line]()
        if progress.starting_loss is not None:
            meaning = (
                f"{DIVERGED_NATS} nats more than the highest loss of the first {REFERENCE_STEPS} "
                f"steps, {progress.starting_loss:.4f}, which is the base's own"
            )
            lines.append(Line(progress.starting_loss + DIVERGED_NATS, meaning))
        lowest = progress.lowest_loss
        if lowest is not None and lowest <= self._guessing_loss - LEARNED_NATS:
            meaning = f"what guessing every token alike would lose; it had been {lowest:.4f}"
            lines.append(Line(self._guessing_loss, meaning))
        return min(lines, key=lambda line: line.loss, default=None)

    def take(self, loss: float) -> None:
        """Judge the mean loss of the newest step, in nats; raises LossDiverged."""
        progress = self._progress
        self._newest_loss = loss
        self._refer_to(loss)
        line = self.line
        above = line is not None and loss > line.loss
        progress.suspect_steps = progress.suspect_steps + 1 if above else 0
        if progress.suspect_steps == PATIENCE_STEPS:
            raise LossDiverged(
                f"loss {loss:.4f} at step {progress.step}: in the {PATIENCE_STEPS} steps from "
                f"{progress.step - PATIENCE_STEPS + 1} on it was above {line}"
            )

    def conclude(self, loss_before: float, loss_after: float) -> None:
        """Judge a run that ended by its held-out loss, in nats, without and with the adapter.

        One that ends suspect must be below the line with it. And none is far above the base where
        its training loss is above the base's, too, as after an end within the first steps: there
        it has learned nothing. A training loss below is that of a run which knows its examples by
        heart; that may be what its user wants. Raises LossDiverged.
        """
        line, step = self.line, self._progress.step
        if self.suspect and line is not None and loss_after > line.loss:
            raise LossDiverged(
                f"the losses of the last steps, up to step {step} ({self._progress.suspect_steps} "
                f"in a row), were above {line}, and so is the held-out loss: {loss_after:.4f}"
            )
        learned = self._newest_loss is None or self._newest_loss <= loss_before
        if not learned and loss_after > loss_before + DIVERGED_NATS:
            raise LossDiverged(
                f"the held-out loss after step {step} is {loss_after:.4f}: more than "
                f"{DIVERGED_NATS} nats above the base's {loss_before:.4f} on the same examples, "
                f"and the training loss of that step is {self._newest_loss:.4f}"
            )

    def _refer_to(self, loss: float) -> None:
        """Let the loss be part of the reference, if its step is one of the first."""
        progress = self._progress
        if progress.step == 1:
            progress.starting_loss = loss
        elif progress.step <= REFERENCE_STEPS and progress.starting_loss is not None:
            progress.starting_loss = max(progress.starting_loss, loss)
