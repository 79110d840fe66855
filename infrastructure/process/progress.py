"""A watchdog thread that ends a process if its event loop or its work hangs.

Every second, the thread touches a file that the supervisor checks. If the event loop or a step of
work takes too long, the thread writes the stacks of all threads to standard error and ends the
process. Other roles of the process first stop.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from infrastructure.process.role import end_process
from infrastructure.settings import Settings

BEAT_SECONDS = 1.0
MAX_GAP_SECONDS = 10.0
"""Maximum seconds between two checks. A longer gap does not count: the process was frozen."""

EXIT_CODE = 6


@dataclass
class Activity:
    """An operation that must end or be renewed within `max_seconds`."""

    name: str
    max_seconds: float
    seconds: float = 0.0


@dataclass
class Progress:
    """The activities of one process."""

    step_seconds: float = 900.0
    loop_seconds: float = 60.0
    _activities: dict[int, Activity] = field(default_factory=dict)
    _numbers: count[int] = field(default_factory=count)

    @contextmanager
    def step(self, name: str) -> Generator[None]:
        """Run the block, which must end within `step_seconds`."""
        number = next(self._numbers)
        self._activities[number] = Activity(name, self.step_seconds)
        try:
            yield
        finally:
            self._activities.pop(number, None)

    async def beat(self) -> None:
        """Renew the activity of the running event loop until cancelled."""
        activity = Activity("the event loop", self.loop_seconds)
        number = next(self._numbers)
        self._activities[number] = activity
        try:
            while True:
                activity.seconds = 0.0
                await asyncio.sleep(BEAT_SECONDS)
        finally:
            self._activities.pop(number, None)

    def overdue(self, passed_seconds: float) -> Activity | None:
        """Add the passed time to all activities. Return one that exceeds its limit, or None."""
        late = None
        for activity in list(self._activities.values()):
            activity.seconds += min(passed_seconds, MAX_GAP_SECONDS)
            if activity.seconds > activity.max_seconds:
                late = activity
        return late


PROGRESS = Progress()
"""The activities of this process."""


def watch(settings: Settings) -> None:
    """Start the thread that touches `settings.beat_file` and ends a process that hangs."""
    PROGRESS.step_seconds, PROGRESS.loop_seconds = settings.step_seconds, settings.hung_seconds
    threading.Thread(
        target=_watch, args=(settings.beat_file,), name="progress", daemon=True
    ).start()


def _watch(beat_file: Path | None) -> None:
    last = time.monotonic()
    while True:
        if beat_file is not None:
            with suppress(OSError):
                beat_file.touch()
        time.sleep(BEAT_SECONDS)
        now = time.monotonic()
        late = PROGRESS.overdue(now - last)
        last = now
        if late is not None:
            logging.getLogger("progress").critical(
                "%s hangs for %.0f s; the process exits; stacks follow", late.name, late.seconds
            )
            faulthandler.dump_traceback(all_threads=True)
            end_process(EXIT_CODE)
