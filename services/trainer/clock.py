"""The segment's own clock: monotonic seconds since the trainer's process started."""

from __future__ import annotations

import os
import time
from pathlib import Path


class SegmentClock:
    """Counts from the start of the process, so that interpreter start and imports are billed too.

    Only the age at construction comes from the kernel's books; from then on it is
    `time.monotonic()`, which no change of the wall clock and no suspension moves.
    """

    def __init__(self, age_seconds: float | None = None) -> None:
        age = process_age_seconds() if age_seconds is None else age_seconds
        self._zero = time.monotonic() - age

    def elapsed(self) -> float:
        """Seconds since the process started, to the millisecond (as reported and logged)."""
        return round(time.monotonic() - self._zero, 3)


def process_age_seconds() -> float:
    """Seconds since the kernel started this process, to a clock tick (10 ms).

    Source: proc(5), field 22 `starttime` of /proc/self/stat, in ticks of CLOCK_BOOTTIME. Systems
    without /proc answer 0.0: the clock then starts at the first call.
    """
    try:
        stat = Path("/proc/self/stat").read_text()
    except OSError:
        return 0.0
    # The command name is in parentheses and may hold spaces; field 3 follows it.
    started_ticks = int(stat.rpartition(")")[2].split()[19])
    started = started_ticks / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
