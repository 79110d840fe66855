"""Formatting of counts and speeds."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, such as `1 job` or `1,200 jobs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def written_speed(per_second: float) -> str:
    """Return a speed as a whole number; below 10, with two digits, because 0 means no progress."""
    return f"{per_second:,.0f}" if per_second >= 9.5 else f"{per_second:.2g}"
