"""Perplexity of a model."""

from __future__ import annotations

import math

LARGEST_LOSS = 700.0
"""Upper limit of a loss in nats. The exponential of a larger loss overflows a float."""


def perplexity(loss: float) -> float:
    """Return exp(loss). `loss` is a mean in nats per token."""
    return math.exp(min(loss, LARGEST_LOSS))
