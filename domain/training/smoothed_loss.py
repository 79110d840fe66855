"""The smoothed training loss: an exponential average over the steps of a run, debiased."""

from __future__ import annotations

import math
from dataclasses import dataclass

SHARE = 0.02
LEAST_STEPS = 5


def smoothing_steps(total_steps: int) -> float:
    """Steps after which a loss weighs 1/e of the newest: 2% of the run, at least 5."""
    return max(LEAST_STEPS, SHARE * total_steps)


@dataclass(frozen=True)
class SmoothedLoss:
    """An exponential average of step losses, in nats per label token.

    `weight` is 1 - beta^t after t steps. Dividing by it removes the bias towards zero, as Adam
    does with its moments (Kingma and Ba, 2015): the first value is the first loss.
    """

    average: float = 0.0
    weight: float = 0.0

    def after(self, loss: float, total_steps: int) -> SmoothedLoss:
        """The average with the loss of one more step of a run of `total_steps`."""
        beta = math.exp(-1 / smoothing_steps(total_steps))
        return SmoothedLoss(
            beta * self.average + (1 - beta) * loss, beta * self.weight + (1 - beta)
        )

    @property
    def value(self) -> float:
        """The debiased average. Raises ZeroDivisionError before the first step."""
        return self.average / self.weight
