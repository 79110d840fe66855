"""The lease: paid time, stop requests, and the watchdog that enforces them."""

from __future__ import annotations

import math
import os
import threading
import time
from contextlib import suppress

from domain.jobs.lifecycle import SegmentEnd
from infrastructure.training.reports import Control
from services.trainer.clock import SegmentClock

OVERRUN_EXIT_CODE = 4
STALL_EXIT_CODE = 5
WATCH_SECONDS = 0.25


class SegmentStopped(Exception):
    """The segment ends before its work is complete. `outcome` is the reason."""

    def __init__(self, outcome: SegmentEnd) -> None:
        super().__init__(outcome.value)
        self.outcome = outcome


class Lease:
    """The last received paid seconds and stop request. Thread-safe.

    Paid time never decreases, so an old message cannot shorten it. Paid time and grace are in
    segment seconds. The stall limit is in real seconds, because it concerns the machine.
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
        """Apply a Control message. Messages may arrive in any order."""
        self.paid_seconds = max(self.paid_seconds, control.paid_seconds)
        self._stop = self._stop or control.stop

    def request_stop(self) -> None:
        """Request a graceful stop. A signal handler may call this."""
        self._stop = True

    @property
    def outcome(self) -> SegmentEnd | None:
        """Reason to end the segment now, or None."""
        if self._stop:
            return SegmentEnd.STOPPED
        if self.clock.elapsed() >= self.paid_seconds:
            return SegmentEnd.LEASE_ENDED
        return None

    def check(self) -> None:
        """Record progress. Raise SegmentStopped if the segment has to end now."""
        self.progress()
        if (outcome := self.outcome) is not None:
            raise SegmentStopped(outcome)

    def must_end(self) -> bool:
        """Record progress. Return True if the segment has to end now."""
        self.progress()
        return self.outcome is not None

    def progress(self) -> None:
        """Record progress, so that the segment does not count as stalled."""
        self._progressed_at = time.monotonic()

    def conclude(self) -> None:
        """Disable the stall check, because only the final report is outstanding."""
        self._stall_seconds = math.inf

    def grace_used(self, elapsed_seconds: float) -> float:
        """Return the seconds of grace that are used at this elapsed time of the segment."""
        return round(max(0.0, elapsed_seconds - self.paid_seconds), 3)

    @property
    def remaining_seconds(self) -> float:
        """Segment seconds until paid time and grace are used up."""
        return max(0.0, self.paid_seconds + self.grace_seconds - self.clock.elapsed())

    def watch(self) -> None:
        """Start the watchdog, which ends the process after paid time and grace, or a stall."""
        self.clock.beat()
        threading.Thread(target=self._watch, name="lease", daemon=True).start()

    def close(self) -> None:
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
                elapsed = self.clock.elapsed()
                _exit(STALL_EXIT_CODE, f"stalled idle={idle_seconds:.3f} elapsed={elapsed:.3f}")


def _exit(code: int, line: str) -> None:
    with suppress(OSError):  # the disk may be full
        print(line, flush=True)
    os._exit(code)
