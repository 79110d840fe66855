"""Divergence: when a finite training loss says that the adapter is worse than no model at all."""

from __future__ import annotations

import math

from services.trainer.failures import LossDiverged

PATIENCE_STEPS = 5
"""Optimizer steps in a row that make a divergence. A bad batch is one step; five are 80 examples by
the wizard's defaults, and few enough that little is paid for in vain."""

LEARNED_NATS = 1.0
"""How far below guessing a step's loss must have been, before being above it says anything: the
loss of an untrained base lies around that of guessing, on either side of it."""


class Divergence:
    """Watches the mean loss of the optimizer steps of a segment.

    Guessing every token of the vocabulary alike loses ln(vocabulary) nats a token, on whatever
    data. A model that was well below (by 1 nat: e times as good a guess) and is above it in five
    steps in a row has been destroyed, and no schedule brings it back: its learning rate only falls.
    How large a loss is otherwise too large depends on the base and the data, so that nothing below
    that line ever counts: a wrong guess would end a good run.

    While the newest steps are above the line the run is `suspect`, and is not saved: the last good
    checkpoint stays the last one. Only a stop saves it, with the number of such steps, for one that
    is resumed to go on with. Every rank sees the same losses and decides alike.
    """

    def __init__(self, vocabulary: int, suspect_steps: int = 0) -> None:
        self.guessing_loss = math.log(vocabulary)
        self.suspect_steps = suspect_steps  # in a row, up to now, that were above

    @property
    def suspect(self) -> bool:
        """Whether the newest step was worse than guessing, after the run had learned."""
        return self.suspect_steps > 0

    def take(self, step: int, loss: float, lowest_loss: float | None) -> None:
        """Judge a step's mean loss by the lowest one so far, in nats; raises LossDiverged."""
        learned = lowest_loss is not None and lowest_loss <= self.guessing_loss - LEARNED_NATS
        above = learned and loss > self.guessing_loss
        self.suspect_steps = self.suspect_steps + 1 if above else 0
        if self.suspect_steps == PATIENCE_STEPS:
            raise LossDiverged(
                f"loss {loss:.4f} at step {step}: above {self.guessing_loss:.4f}, which guessing "
                f"every token alike would lose, in {PATIENCE_STEPS} steps in a row, after it had "
                f"been {lowest_loss:.4f}"
            )

    def conclude(self, held_out_loss: float) -> None:
        """Judge a run that ended suspect by its held-out loss, in nats; raises LossDiverged."""
        if self.suspect and held_out_loss > self.guessing_loss:
            raise LossDiverged(
                f"the last steps were worse than guessing every token alike, and so is the "
                f"held-out loss: {held_out_loss:.4f}, against {self.guessing_loss:.4f}"
            )
