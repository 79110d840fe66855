"""Properties of settlement under any rates, ticks and evidence."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.core.money import charge_micros
from services.billing.settlement import MeteredSegment, close, second_micros, settle
from tests.builders.commands import command
from tests.builders.examples import POLICY, account, meter

rates = st.integers(3600, 200_000_000)  # from a micro-dollar a second on


@hypothesis_settings(max_examples=60)
@given(
    rates=st.lists(rates, min_size=1, max_size=4),
    steps=st.lists(st.integers(0, 200), min_size=1, max_size=12),
    balance_seconds=st.integers(0, 900),
)
@example(rates=[39672, 94361, 94361], steps=[0], balance_seconds=570)
def test_segments_that_run_together_reach_zero_together(
    rates: list[int], steps: list[int], balance_seconds: int
) -> None:
    """For any rates and any tick intervals."""
    with command():
        meters = [meter(job=job, rate=rate) for job, rate in enumerate(rates)]
        payer = account(balance_seconds * second_micros(meters))
        elapsed = 0
        for step in [0, *steps, *[60] * 30]:
            # A trainer stops by itself at the end of its paid time.
            elapsed = min([elapsed + step, *(each.paid_seconds for each in meters)])
            settle(payer, [MeteredSegment(each, elapsed) for each in meters], POLICY)
            assert len({each.paid_seconds for each in meters}) == 1
    assert elapsed == meters[0].paid_seconds, "the money has ended"
    assert payer.available_micros < second_micros(meters)
    assert payer.depleted, "and the account says so"


@hypothesis_settings(max_examples=60)
@given(rates=st.lists(rates, min_size=2, max_size=4), joins=st.lists(st.integers(0, 400)))
def test_segments_that_began_apart_reach_zero_together(rates: list[int], joins: list[int]) -> None:
    """Each segment starts while the balance pays full leases."""
    with command():
        meters = [meter(job=job, rate=rate) for job, rate in enumerate(rates)]
        payer = account(2000 * second_micros(meters))
        began = sorted([*joins, 0, 0, 0, 0])[: len(meters)]
        for now in range(0, 4000, 37):
            running = [
                MeteredSegment(each, min(now - start, each.paid_seconds))
                for each, start in zip(meters, began, strict=True)
                if start <= now
            ]
            settle(payer, running, POLICY)
    ends = {each.paid_seconds + start for each, start in zip(meters, began, strict=True)}
    assert max(ends) - min(ends) <= 37, "to the second of their evidence, which ticks show late"


@hypothesis_settings(max_examples=100)
@given(
    balance=st.integers(0, 2_000_000_000),
    segments=st.lists(
        st.tuples(
            st.integers(1, 200_000_000),
            st.lists(st.integers(-20, 400), max_size=8),
            st.integers(0, 2000),
            st.integers(0, 2000),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_any_evidence_gives_correct_books(
    balance: int, segments: list[tuple[int, list[int], int, int]]
) -> None:
    """Evidence is uneven, and the final report may contradict it."""
    with command():
        payer = account(balance)
        meters = [meter(job=job, rate=rate) for job, (rate, *_) in enumerate(segments)]
        elapsed = [0 for _ in meters]
        for tick in range(9):
            for index, (_, steps, *_) in enumerate(segments):
                elapsed[index] += max(0, steps[tick]) if tick < len(steps) else 0
            running = [
                MeteredSegment(each, shown) for each, shown in zip(meters, elapsed, strict=True)
            ]
            settle(payer, running, POLICY)
            assert_sound(payer, meters)
        for each, (_, _, ended, kept) in zip(meters, segments, strict=True):
            close(payer, each, ended, kept, POLICY)
    assert payer.reserved_micros == 0
    assert payer.balance_micros >= 0
    paid = sum(
        charge_micros(each.rate_micros_per_hour, each.billed_seconds)
        - (
            each.charge_between(each.billed_seconds - each.credited_seconds, each.billed_seconds)
            if each.credited_seconds
            else 0
        )
        for each in meters
    )
    assert payer.balance_micros == balance - paid


def assert_sound(payer: Account, meters: list[Meter]) -> None:
    """Check the invariants of every tick."""
    assert 0 <= payer.reserved_micros <= payer.balance_micros
    assert payer.reserved_micros == sum(
        each.charge_between(each.billed_seconds, each.paid_seconds) for each in meters
    )
    for each in meters:
        minutes = [event for event in each.pending_events if isinstance(event, Meter.MinuteMetered)]
        total = sum(minute.amount_micros for minute in minutes)
        assert total == charge_micros(each.rate_micros_per_hour, each.billed_seconds)
