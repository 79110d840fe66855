"""Formatting of durations."""

from __future__ import annotations


def spoken(seconds: float) -> str:
    """Return a duration in at most two units, the largest first, such as `1 h 5 min`."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 10:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours == 0:
        return f"{minutes} min"
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def rough(seconds: float) -> str:
    """Return a coarsely rounded duration, such as `20 s`, `4 min` or `1 h 20 min`."""
    if seconds < 50:
        return spoken(max(5, 5 * round(seconds / 5)))
    if seconds < 90:
        return "1 min"
    step = 60 if seconds < 2700 else 300 if seconds < 4 * 3600 else 900
    return spoken(max(step, step * round(seconds / step)))
