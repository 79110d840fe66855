"""Pauses between polls. They are short after an event, longer otherwise, and end with an event."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from weakref import WeakKeyDictionary

ACTIVE_SECONDS = 10.0
"""Seconds after an event in which pauses are short, because read models follow it."""


class Activity:
    """The events that the consumers of one event loop have received."""

    def __init__(self) -> None:
        self._last, self._event = -math.inf, asyncio.Event()

    def note(self) -> None:
        """End all long pauses, because an event has been received."""
        self._last = asyncio.get_running_loop().time()
        self._event.set()

    async def pause(self, seconds: float, idle_seconds: float) -> None:
        """Wait for `seconds`. If no event was received lately, wait longer, but at most for one."""
        if asyncio.get_running_loop().time() - self._last < ACTIVE_SECONDS:
            await asyncio.sleep(seconds)
            return
        self._event.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), idle_seconds)


_activities = WeakKeyDictionary[asyncio.AbstractEventLoop, Activity]()


def activity() -> Activity:
    """Return the activity of the running event loop."""
    return _activities.setdefault(asyncio.get_running_loop(), Activity())
