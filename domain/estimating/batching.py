"""Batching of the examples in an optimizer step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from domain.estimating.footprint import PAD_MULTIPLE


def padded(tokens: float) -> int:
    """Return a length in tokens, rounded up to the padding multiple."""
    return math.ceil(tokens / PAD_MULTIPLE) * PAD_MULTIPLE


def fill(lengths: Sequence[float], budget: int) -> list[list[int]]:
    """Return batches of positions in `lengths` (tokens), with the longest examples first.

    A batch has at most `budget` tokens including padding, because attention pads every row to the
    longest one. An example that exceeds the budget has its own batch.
    """
    batches: list[list[int]] = []
    length = 0
    for position in sorted(range(len(lengths)), key=lambda each: (-lengths[each], each)):
        if batches and (len(batches[-1]) + 1) * length <= budget:
            batches[-1].append(position)
        else:
            batches.append([position])
            length = padded(lengths[position])
    return batches
