"""When accounts are settled: once a minute, whatever the number of segments, and never too late."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.core.aggregate import Cause
from services.billing.due import is_due, next_due
from services.billing.settlement import MeteredSegment, settle
from tests.builders.commands import NOW, command
from tests.builders.examples import POLICY, account, happened, meter

SECOND = 1000
"""Price of one second of the example meter, micro-dollars."""

PLENTY = 10**9


@pytest.fixture(autouse=True)
def cause() -> Iterator[Cause]:
    with command() as cause:
        yield cause


class Hours:
    """An account whose segments started at different seconds, looked at as the ticker does."""

    def __init__(self, balance_micros: int, starts: list[int], limit: int | None = None) -> None:
        self.payer = account(balance_micros)
        self.meters = [meter(job=n, limit_micros=limit) for n in range(1, len(starts) + 1)]
        self.settlements = 0
        self._starts = starts
        self._next: datetime | None = NOW

    def segments(self, second: int, late: int = 0) -> list[MeteredSegment]:
        """Return the started segments, whose evidence is late by some seconds."""
        return [
            MeteredSegment(meter, max(0, second - start - late), NOW + timedelta(seconds=start))
            for meter, start in zip(self.meters, self._starts, strict=True)
            if start <= second
        ]

    def look(self, second: int, segments: list[MeteredSegment]) -> None:
        """Settle the account if it is due. Fails if it is due earlier than announced."""
        now = NOW + timedelta(seconds=second)
        if second in self._starts:  # the ticker looks at an account with a new event
            self._next = now
        looks = self._next is not None and self._next <= now
        if is_due(self.payer, segments, POLICY):
            assert looks, "the account was not announced as due"
            self.settle(segments)
        if looks:
            self._next = next_due(self.payer, segments, now, POLICY)

    def settle(self, segments: list[MeteredSegment]) -> None:
        settle(self.payer, segments, POLICY)
        self.settlements += happened(self.payer).count("UsageSettled")

    @property
    def billed(self) -> list[int]:
        return [each.billed_seconds for each in self.meters]


def shortest_lead(segments: list[MeteredSegment]) -> int:
    """Return the paid time that is left of the shortest lease."""
    return min(each.meter.paid_seconds - each.elapsed_seconds for each in segments)


@pytest.mark.parametrize("starts", [[0], [0, 7, 13, 21, 34, 41, 52, 59]])
@pytest.mark.parametrize("late", [0, 5])
def test_an_account_is_settled_once_a_minute_whatever_its_segments(
    starts: list[int], late: int
) -> None:
    hours, lead = Hours(PLENTY, starts), POLICY.lease_seconds - POLICY.extension_seconds
    for second in range(60, 1260):
        segments = hours.segments(second, late)
        hours.look(second, segments)
        assert shortest_lead(segments) >= lead
    assert hours.settlements in range(18, 24)
    assert all(each.minutes in (18, 19, 20) for each in hours.meters)


def test_a_segment_without_evidence_delays_no_bill() -> None:
    hours = Hours(PLENTY, [0, 0])
    for second in range(600):
        shown, silent = hours.segments(second)
        hours.look(second, [shown, replace(silent, elapsed_seconds=0)])
    assert hours.billed == [540, 0]


def test_a_minute_waits_at_most_one_minute_for_others() -> None:
    hours = Hours(PLENTY, [0, 59])
    for second in range(60, 600):
        hours.look(second, segments := hours.segments(second))
        for each in segments:
            unbilled = each.elapsed_seconds - each.meter.billed_seconds
            assert unbilled < 2 * POLICY.minute_seconds


@pytest.mark.parametrize("late", [0, 5])
def test_a_low_balance_is_noticed_at_the_second_of_the_evidence(late: int) -> None:
    hours = Hours(1000 * SECOND, [0])
    for second in range(110 + late):
        hours.look(second, hours.segments(second, late))
        assert hours.payer.low == (second - late > 100)


@given(
    balance=st.integers(0, 1200),
    starts=st.lists(st.integers(0, 150), min_size=1, max_size=3),
    limit=st.none() | st.integers(1, 500),
    late=st.integers(0, 20),
)
@settings(max_examples=20)
def test_no_lease_runs_out_while_there_is_money(
    balance: int, starts: list[int], limit: int | None, late: int
) -> None:
    """And each lease is billed as soon as it is used up, and each minute before the next is due."""
    with command():
        micros = None if limit is None else limit * SECOND
        hours = Hours(balance * SECOND, starts, micros)
        for second in range(600):
            segments, money = hours.segments(second, late), hours.payer.leasable_micros
            before = [each.lapsed for each in segments]
            hours.look(second, segments)
            for each, was_lapsed in zip(segments, before, strict=True):
                lease = each.meter
                assert each.used_seconds - lease.billed_seconds < 2 * POLICY.minute_seconds
                if each.lapsed:
                    assert lease.billed_seconds == lease.paid_seconds
                    is_poor = money < SECOND * len(segments)
                    assert was_lapsed or is_poor or lease.paid_seconds == limit
