"""The clock of a segment: monotonic seconds since the process started, in total and by phase."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

from domain.training.phases import Phase

MOST_PAUSE_SECONDS = 10.0
"""Maximum seconds between two beats. After a longer time, the process was frozen, not slow."""


class SegmentClock:
    """A clock of the seconds since the process started, including interpreter start and imports.

    After the first `beat`, time in which the process was frozen does not count. `speed` is 1 except
    with the test clock.
    """

    def __init__(self, age_seconds: float | None = None, speed: float = 1.0) -> None:
        age = process_age_seconds() if age_seconds is None else age_seconds
        self._speed = speed
        self._counts_from_until = time.monotonic() - age, math.inf  # replaced atomically

    def elapsed(self) -> float:
        """Return the segment seconds since the process started, to the millisecond."""
        begin, end = self._counts_from_until
        return round(self._speed * (min(time.monotonic(), end) - begin), 3)

    def beat(self) -> None:
        """Record that the process is running. One thread calls this several times a second."""
        begin, end = self._counts_from_until
        now = time.monotonic()
        frozen = max(0.0, now - end)
        self._counts_from_until = begin + frozen, now + MOST_PAUSE_SECONDS

    def real_seconds(self, segment_seconds: float) -> float:
        return segment_seconds / self._speed


class PhaseTimes:
    """Segment seconds by phase. The first phase is the image pull, until the program is loaded."""

    def __init__(self) -> None:
        self._present = Phase.IMAGE_PULL
        self._entered_at = 0.0
        self._before: dict[Phase, float] = {}

    @property
    def present(self) -> Phase:
        return self._present

    def enter(self, phase: Phase, elapsed_seconds: float) -> None:
        """Enter a phase at this elapsed time of the segment."""
        self._before = self.until(elapsed_seconds)
        self._present, self._entered_at = phase, elapsed_seconds

    def until(self, elapsed_seconds: float) -> dict[Phase, float]:
        """Return the seconds of each phase so far, which sum to the elapsed time."""
        present = self._before.get(self._present, 0.0) + elapsed_seconds - self._entered_at
        return {**self._before, self._present: round(present, 3)}


def process_age_seconds(pid: int | None = None) -> float:
    """Return the age of a process by `starttime` in proc(5), to 10 ms; 0.0 without /proc."""
    try:
        stat = Path(f"/proc/{pid or 'self'}/stat").read_text()
    except OSError:
        return 0.0
    # The command name is in parentheses and may contain spaces; field 3 follows it.
    started_ticks = int(stat.rpartition(")")[2].split()[19])
    started = started_ticks / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
