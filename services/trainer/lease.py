"""The lease: paid time, stop requests, and the watchdog that enforces them."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from contextlib import suppress

from domain.jobs.lifecycle import SegmentEnd
from infrastructure.reports import Control
from services.trainer.clock import SegmentClock

OVERRUN_EXIT_CODE = 4
STALL_EXIT_CODE = 5
WATCH_SECONDS = 0.25


class SegmentStopped(Exception):
    """The segment ends before its work is done, for the reason in `outcome`."""

    def __init__(self, outcome: SegmentEnd) -> None:
        super().__init__(outcome.value)
        self.outcome = outcome


class Lease:
    """The paid seconds and stop request last received; thread-safe.

    Paid time only grows, so an old message never shortens it. Paid time and grace are in segment
    seconds. A stall is in real seconds, because it concerns the machine.
    """

    def __init__(
        self,
        clock: SegmentClock,
        paid_seconds: float,
        grace_seconds: float,
        stall_seconds: float = math.inf,
    ) -> None:
        self.clock = clock
        self.paid_seconds = paid_seconds
        self.grace_seconds = grace_seconds
        self._stall_seconds = stall_seconds
        self._progressed_at = time.monotonic()
        self._stop = False
        self._closed = threading.Event()

    def apply(self, control: Control) -> None:
        """Apply a Control message; messages may arrive in any order."""
        self.paid_seconds = max(self.paid_seconds, control.paid_seconds)
        self._stop = self._stop or control.stop

    def request_stop(self) -> None:
        """Request a graceful stop; safe in a signal handler."""
        self._stop = True

    @property
    def outcome(self) -> SegmentEnd | None:
        """The reason to end the segment now, or None."""
        if self._stop:
            return SegmentEnd.STOPPED
        if self.clock.elapsed() >= self.paid_seconds:
            return SegmentEnd.LEASE_ENDED
        return None

    def check(self) -> None:
        """Note progress; raise SegmentStopped if the segment has to end now."""
        self.progress()
        if (outcome := self.outcome) is not None:
            raise SegmentStopped(outcome)

    def must_end(self) -> bool:
        """Note progress; return True if the segment has to end now."""
        self.progress()
        return self.outcome is not None

    def progress(self) -> None:
        """Note progress, so that the segment does not count as stalled."""
        self._progressed_at = time.monotonic()

    def conclude(self) -> None:
        """End the check for stalls: the work is done, and its report waits for an answer."""
        self._stall_seconds = math.inf

    def grace_used(self, elapsed_seconds: float) -> float:
        """Seconds of grace used after this many seconds of the segment."""
        return round(max(0.0, elapsed_seconds - self.paid_seconds), 3)

    @property
    def remaining_seconds(self) -> float:
        """Segment seconds until the process has to end: the rest of paid time and grace."""
        return max(0.0, self.paid_seconds + self.grace_seconds - self.clock.elapsed())

    def watch(self) -> None:
        """Start the watchdog, which ends the process after paid time and grace, or on a stall.

        It has its own thread. So a hung collective or a dead network cannot keep a GPU unpaid, or
        bill an idle one.
        """
        self.clock.beat()
        threading.Thread(target=self._watch, name="lease", daemon=True).start()

    def close(self) -> None:
        """End the watchdog."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(
            min(WATCH_SECONDS, self.clock.real_seconds(self.remaining_seconds))
        ):
            self.clock.beat()
            if self.remaining_seconds == 0.0:
                _exit(OVERRUN_EXIT_CODE, f"overrun elapsed={self.clock.elapsed():.3f}")
            idle_seconds = time.monotonic() - self._progressed_at
            if idle_seconds >= self._stall_seconds:
                _exit(
                    STALL_EXIT_CODE,
                    f"stalled idle={idle_seconds:.3f} elapsed={self.clock.elapsed():.3f}",
                )


def _exit(code: int, line: str) -> None:
    with suppress(OSError):  # a full disk
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    os._exit(code)
