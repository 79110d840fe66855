"""Batching of the examples in an optimizer step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from domain.estimating.footprint import PAD_MULTIPLE


def padded(tokens: float) -> int:
    """Return a length in tokens, rounded up to the padding multiple."""
    return math.ceil(tokens / PAD_MULTIPLE) * PAD_MULTIPLE


def fill(lengths: Sequence[float], budget: int) -> list[list[int]]:
    """Return batches of positions, longest first, of at most `budget` tokens with padding."""
    batches: list[list[int]] = []
    length = 0
    for position in sorted(range(len(lengths)), key=lambda each: (-lengths[each], each)):
        if batches and (len(batches[-1]) + 1) * length <= budget:
            batches[-1].append(position)
        else:
            batches.append([position])
            length = padded(lengths[position])
    return batches
