"""Perplexity."""

from __future__ import annotations

import math

LARGEST_LOSS = 700.0
"""Limit in nats. The exponential of a larger loss exceeds the range of a float."""


def perplexity(loss: float) -> float:
    """Return exp(loss) of a mean loss in nats per token."""
    return math.exp(min(loss, LARGEST_LOSS))
