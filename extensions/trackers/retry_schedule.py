"""Delays after failed attempts to send metrics to a tracker."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from random import random

FIRST = timedelta(seconds=5)
LONGEST = timedelta(minutes=5)
GIVE_UP = timedelta(days=7)
"""Time without success after which EcoLink sends nothing more, until the owner asks for it."""

JITTER = 0.1
"""Largest random change of a delay, so that the runs of an account do not retry together."""


def delay_after(failures: int, draw: Callable[[], float] = random) -> timedelta:
    """Return the delay after consecutive failures, doubled from 5 s to 5 min, with jitter."""
    doubled = FIRST * 2 ** min(failures - 1, 10)
    return min(doubled, LONGEST) * (1 + JITTER * (2 * draw() - 1))
