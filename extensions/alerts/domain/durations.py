"""Durations in alert rules, such as `30s`, `5 min` or `2h`."""

from __future__ import annotations

import re
from datetime import timedelta

UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86_400}
DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(s|min|h|d)")
LONGEST = timedelta(days=3650)

EXPLANATION = 'Write a number with the unit s, min, h or d, such as "5min".'


def parse_duration(text: object) -> timedelta:
    """Return the duration that a text states. Raise ValueError if it states none."""
    found = DURATION.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"This is not a duration. {EXPLANATION}")
    seconds = float(found[1]) * UNITS[found[2]]
    if seconds > LONGEST.total_seconds():
        raise ValueError("This duration is longer than 3650 days. Use a shorter one.")
    return timedelta(seconds=seconds)
