"""The smoothed training loss, a debiased exponential moving average over the steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

SHARE = 0.02
LEAST_STEPS = 5


def smoothing_steps(total_steps: int) -> float:
    """Return the steps after which a loss's weight falls to 1/e: 2% of all steps, at least 5."""
    return max(LEAST_STEPS, SHARE * total_steps)


@dataclass(frozen=True)
class SmoothedLoss:
    """An exponential moving average of the losses of the steps, in nats per trainable token.

    `weight` is 1 - beta^t after t steps. Dividing by it removes the bias towards zero, as Adam does
    with its moments (Kingma and Ba, 2015). The first value therefore equals the first loss.
    """

    average: float = 0.0
    weight: float = 0.0

    def after(self, loss: float, total_steps: int) -> SmoothedLoss:
        """Return the average after one more step with this loss."""
        beta = math.exp(-1 / smoothing_steps(total_steps))
        return SmoothedLoss(
            beta * self.average + (1 - beta) * loss, beta * self.weight + (1 - beta)
        )

    @property
    def value(self) -> float:
        """Debiased average. Raise ZeroDivisionError before the first step."""
        return self.average / self.weight
