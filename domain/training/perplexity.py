"""Perplexity: the loss as the number of equally likely tokens that the model wavers between."""

from __future__ import annotations

import math

LARGEST_LOSS = 700.0
"""Nats; beyond it the exponential leaves the range of a float, and nobody's interest."""


def perplexity(loss: float) -> float:
    """exp(loss), of a mean loss in nats per token."""
    return math.exp(min(loss, LARGEST_LOSS))
