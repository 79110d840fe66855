"""Delays between the attempts of a delivery."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from random import random

DELAYS = (
    timedelta(seconds=5),
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=6),
    timedelta(hours=15),
)
"""Delay after each failed attempt. Together, they are about a day."""

ATTEMPTS = len(DELAYS) + 1
MAX_DELAY = max(DELAYS)
JITTER = 0.1
"""Largest random change of a delay, so that many deliveries do not retry at the same time."""


def delay_after(attempts: int, draw: Callable[[], float] = random) -> timedelta | None:
    """Return the delay, with jitter, after this number of attempts, or None after the last one."""
    if attempts >= ATTEMPTS:
        return None
    return DELAYS[attempts - 1] * (1 + JITTER * (2 * draw() - 1))
