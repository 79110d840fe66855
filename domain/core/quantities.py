"""Formatting of counts, speeds and sizes."""

from __future__ import annotations

import math

GIB = 1024**3
FEW_GIB = 10
"""Size in GiB from which sizes are rounded to tenths, not hundredths."""


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, such as `1 job` or `1,200 jobs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def written_speed(per_second: float) -> str:
    """Return a speed as a whole number; below 10, with two digits, because 0 means no progress."""
    return f"{per_second:,.0f}" if per_second >= 9.5 else f"{per_second:.2g}"


def gib(size: int) -> float:
    """Return bytes in GiB, rounded up: to hundredths below 10 GiB, otherwise to tenths."""
    gib = size / GIB
    parts = 100 if gib < FEW_GIB else 10
    return math.ceil(gib * parts) / parts
