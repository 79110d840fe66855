"""Paid time, stops, and the clock behind them."""

from __future__ import annotations

from uuid import uuid4

import pytest

from infrastructure.reports import Control, Outcome
from services.trainer.clock import SegmentClock, process_age_seconds
from services.trainer.lease import Lease, SegmentStopped


class StoppedClock(SegmentClock):
    """A clock that a test sets."""

    now = 0.0

    def elapsed(self) -> float:
        return self.now


def heard(lease: Lease, **fields) -> None:
    lease.hear(Control(job_id=uuid4(), segment=1, **fields))


def test_paid_time_ends_the_segment_unless_it_grew_before() -> None:
    clock = StoppedClock()
    lease = Lease(clock, 60, 30)
    clock.now = 59.9
    lease.check()
    heard(lease, paid_seconds=120)
    clock.now = 119.9
    lease.check()
    clock.now = 120.0
    with pytest.raises(SegmentStopped) as stopped:
        lease.check()
    assert stopped.value.outcome is Outcome.LEASE_ENDED


def test_paid_time_never_shrinks_and_a_stop_is_never_taken_back() -> None:
    lease = Lease(StoppedClock(), 60, 30)
    heard(lease, paid_seconds=120, stop=True)
    heard(lease, paid_seconds=30)
    assert lease.paid_seconds == 120
    assert lease.outcome is Outcome.STOPPED


def test_grace_is_what_was_used_beyond_the_paid_time() -> None:
    clock = StoppedClock()
    lease = Lease(clock, 60, 30)
    assert lease.grace_used(59.0) == 0.0
    assert lease.grace_used(62.5) == 2.5
    clock.now = 70.0
    assert lease.remaining_seconds == 20.0
    clock.now = 91.0
    assert lease.remaining_seconds == 0.0


def test_the_clock_counts_from_the_start_of_the_process() -> None:
    age = process_age_seconds()
    assert age > 0.1
    clock = SegmentClock()
    first = clock.elapsed()
    assert age - 0.001 <= first < age + 5
    assert 5.0 <= SegmentClock(age_seconds=5.0).elapsed() < 10.0
