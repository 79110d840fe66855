"""Delays between the attempts of a delivery."""

from __future__ import annotations

from datetime import timedelta

from extensions.notifications.domain.retry_schedule import ATTEMPTS, DELAYS, JITTER, delay_after


def test_the_attempts_take_about_a_day() -> None:
    total = sum(DELAYS, timedelta())
    assert timedelta(hours=23) < total < timedelta(hours=25)
    assert list(DELAYS) == sorted(DELAYS)


def test_each_failed_attempt_has_its_delay_and_the_last_one_none() -> None:
    delays = [delay_after(number, lambda: 0.5) for number in range(1, ATTEMPTS + 1)]
    assert delays == [*DELAYS, None]


def test_jitter_changes_a_delay_in_both_directions() -> None:
    for number, delay in enumerate(DELAYS, 1):
        assert delay_after(number, lambda: 0.0) == delay * (1 - JITTER)
        assert delay_after(number, lambda: 1.0) == delay * (1 + JITTER)
        drawn = delay_after(number)
        assert drawn is not None
        assert delay * (1 - JITTER) <= drawn <= delay * (1 + JITTER)
