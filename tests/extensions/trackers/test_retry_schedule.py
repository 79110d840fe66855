"""Delays between attempts to send metrics."""

from __future__ import annotations

from datetime import timedelta

from extensions.trackers.retry_schedule import FIRST, LONGEST, delay_after


def test_delays_double_up_to_five_minutes() -> None:
    delays = [delay_after(failures, draw=lambda: 0.5) for failures in range(1, 30)]
    assert delays[:3] == [FIRST, 2 * FIRST, 4 * FIRST]
    assert delays[-1] == LONGEST
    assert delays == sorted(delays)
    assert delay_after(3, draw=lambda: 1.0) == 4.4 * FIRST
    assert delay_after(10_000) <= timedelta(minutes=5.5)
