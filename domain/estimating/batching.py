"""How the examples of an optimizer step are cut into batches that run at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

from domain.estimating.footprint import PAD_MULTIPLE


def padded(tokens: float) -> int:
    """The length of rows of which the longest has so many tokens."""
    return math.ceil(tokens / PAD_MULTIPLE) * PAD_MULTIPLE


def fill(lengths: Sequence[float], budget: int) -> list[list[int]]:
    """Batches of positions in `lengths` (tokens), longest examples first, each as full as may be.

    A batch has at most `budget` tokens, counted as if all its examples were as long as its longest:
    so much attention sees, whose rows are padded. An example that has more by itself is alone.
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
