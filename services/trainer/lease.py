"""The lease: how long the segment may run, whether it shall stop, and the watchdog behind both."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from contextlib import suppress

from infrastructure.reports import Control, Outcome
from services.trainer.clock import SegmentClock

OVERRUN_EXIT_CODE = 4
STALL_EXIT_CODE = 5
WATCH_SECONDS = 0.25


class SegmentStopped(Exception):
    """The segment ends before its work is done; `outcome` says why."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.value)
        self.outcome = outcome


class Lease:
    """Paid seconds and the wish to stop, as last heard; safe to use from several threads.

    Paid time only grows, so that an old message never shortens it. Paid time and grace are segment
    time; a stall is real time, for it is about what the machine does.
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

    def hear(self, control: Control) -> None:
        """Take note of a Control message, in whatever order messages come."""
        self.paid_seconds = max(self.paid_seconds, control.paid_seconds)
        self._stop = self._stop or control.stop

    def request_stop(self) -> None:
        """Ask for a graceful stop; safe in a signal handler."""
        self._stop = True

    @property
    def outcome(self) -> Outcome | None:
        """Why the segment has to end now, or None while it may go on."""
        if self._stop:
            return Outcome.STOPPED
        if self.clock.elapsed() >= self.paid_seconds:
            return Outcome.LEASE_ENDED
        return None

    def check(self) -> None:
        """Between two pieces of work: note progress; raise SegmentStopped if this is the end."""
        self.progress()
        if (outcome := self.outcome) is not None:
            raise SegmentStopped(outcome)

    def must_end(self) -> bool:
        """Note progress; return True if the segment has to end now."""
        self.progress()
        return self.outcome is not None

    def progress(self) -> None:
        """Something was done: the segment is not stalled."""
        self._progressed_at = time.monotonic()

    def conclude(self) -> None:
        """The work is over, and only its report waits for an answer: nothing can stall any more."""
        self._stall_seconds = math.inf

    def grace_used(self, elapsed_seconds: float) -> float:
        """Seconds beyond the paid ones at a moment of the segment."""
        return round(max(0.0, elapsed_seconds - self.paid_seconds), 3)

    @property
    def remaining_seconds(self) -> float:
        """Segment seconds until the process has to be gone: what is left of paid time and grace."""
        return max(0.0, self.paid_seconds + self.grace_seconds - self.clock.elapsed())

    def watch(self) -> None:
        """Start the watchdog: it ends the process when paid time and grace are over, or on a stall.

        It works from a thread of its own, so that neither a hung collective nor a dead network can
        hold a GPU that nobody pays for, or bill one that does nothing.
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
