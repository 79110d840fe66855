"""Settlement: minutes, leases and depletion."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from domain.billing.account import Account
from domain.core.aggregate import Cause
from services.billing.settlement import (
    LeasePolicy,
    Running,
    close,
    open_meter,
    second_micros,
    settle,
)
from tests.builders.commands import command
from tests.builders.examples import POLICY, account, happened, meter

SECOND = 1000
"""Price of one second of the example meter, micro-dollars."""


@pytest.fixture(autouse=True)
def cause() -> Iterator[Cause]:
    with command() as cause:
        yield cause


def test_the_first_lease_is_a_full_one() -> None:
    payer, running = account(1000 * SECOND), meter()
    settle(payer, [Running(running, 0)], POLICY)
    assert happened(running) == ["LeaseGranted"]
    assert running.paid_seconds == 300
    assert payer.reserved_micros == 300 * SECOND


def test_a_lease_is_not_extended_second_by_second() -> None:
    payer, running = account(1000 * SECOND), meter()
    settle(payer, [Running(running, 0)], POLICY)
    settle(payer, [Running(running, 59)], POLICY)
    assert happened(running) == ["LeaseGranted"]
    settle(payer, [Running(running, 60)], POLICY)
    assert happened(running) == ["MinuteMetered", "LeaseExtended"]
    assert running.paid_seconds == 360


def test_a_minute_and_its_lease_extension_come_together() -> None:
    payer, running = account(1000 * SECOND), meter()
    settle(payer, [Running(running, 0)], POLICY)
    happened(payer)
    settle(payer, [Running(running, 60)], POLICY)
    assert happened(payer) == ["UsageSettled"]
    assert payer.balance_micros == 940 * SECOND
    assert payer.reserved_micros == 300 * SECOND


def test_the_last_lease_uses_the_balance_to_the_second() -> None:
    payer, running = account(120 * SECOND + 999), meter()
    settle(payer, [Running(running, 0)], POLICY)
    assert running.paid_seconds == 120
    assert payer.available_micros == 999


def test_without_a_second_of_money_there_is_no_lease() -> None:
    payer, running = account(SECOND - 1), meter()
    settle(payer, [Running(running, 0)], POLICY)
    assert running.paid_seconds == 0
    assert payer.reserved_micros == 0


def test_a_top_up_grants_a_waiting_lease() -> None:
    payer, running = account(), meter()
    settle(payer, [Running(running, 0)], POLICY)
    payer.grant_credit(1000 * SECOND, "top-up")
    settle(payer, [Running(running, 0)], POLICY)
    assert happened(running) == ["LeaseGranted"]
    assert running.paid_seconds == 300


def test_a_later_meter_extends_all_leases_equally() -> None:
    payer, first, second = (
        account(10_000 * SECOND),
        meter(job=1),
        meter(job=2, rate=7_200_000),
    )
    settle(payer, [Running(first, 0)], POLICY)
    settle(payer, [Running(first, 59), Running(second, 0)], POLICY)
    assert (first.paid_seconds - 59, second.paid_seconds) == (300, 300)


def test_time_beyond_the_paid_seconds_is_not_billed() -> None:
    payer, running = account(120 * SECOND), meter()
    settle(payer, [Running(running, 0)], POLICY)
    settle(payer, [Running(running, 150)], POLICY)
    assert running.billed_seconds == 120
    assert payer.balance_micros == 0


def test_a_lapsed_lease_is_not_extended() -> None:
    payer, running = account(120 * SECOND), meter()
    settle(payer, [Running(running, 0)], POLICY)
    payer.grant_credit(1000 * SECOND, "too late")
    settle(payer, [Running(running, 125)], POLICY)
    close(payer, running, elapsed_seconds=130, kept_seconds=130, policy=POLICY)
    assert running.paid_seconds == running.billed_seconds == 120
    assert payer.balance_micros == 1000 * SECOND


def test_the_last_minute_and_the_depletion_come_together() -> None:
    payer, running = account(120 * SECOND + 500), meter()
    settle(payer, [Running(running, 0)], POLICY)
    settle(payer, [Running(running, 60)], POLICY)
    assert "BalanceDepleted" not in happened(payer)
    settle(payer, [Running(running, 120)], POLICY)
    assert happened(payer) == ["UsageSettled", "BalanceDepleted"]


def test_an_ended_segment_is_settled_and_its_lease_released() -> None:
    payer, running = account(1000 * SECOND), meter()
    settle(payer, [Running(running, 0)], POLICY)
    close(payer, running, elapsed_seconds=75, kept_seconds=75, policy=POLICY)
    assert running.closed
    assert payer.balance_micros == (1000 - 75) * SECOND
    assert payer.reserved_micros == 0


def test_work_lost_by_a_crash_is_credited() -> None:
    payer, running = account(1000 * SECOND), meter()
    settle(payer, [Running(running, 0)], POLICY)
    happened(payer)
    close(payer, running, elapsed_seconds=75, kept_seconds=50, policy=POLICY)
    reversal = payer.pending_events[-1]
    assert isinstance(reversal, Account.ChargeReversed)
    assert (reversal.from_seconds, reversal.to_seconds) == (50, 75)
    assert payer.balance_micros == (1000 - 50) * SECOND


def test_the_final_report_credits_a_wrong_clocks_time() -> None:
    payer, running = account(1000 * SECOND), meter()
    settle(payer, [Running(running, 0)], POLICY)
    settle(payer, [Running(running, 240)], POLICY)
    close(payer, running, elapsed_seconds=75, kept_seconds=75, policy=POLICY)
    assert payer.balance_micros == (1000 - 75) * SECOND


def test_a_lapsed_lease_stays_lapsed_after_a_clock_jump() -> None:
    payer, running = account(120 * SECOND), meter()
    settle(payer, [Running(running, 0)], POLICY)
    settle(payer, [Running(running, 120)], POLICY)
    payer.grant_credit(1000 * SECOND, "too late")
    settle(payer, [Running(running, 30)], POLICY)
    assert running.paid_seconds == 120


def test_the_last_part_minute_and_the_depletion_come_together() -> None:
    payer, running = account(95 * SECOND), meter()
    settle(payer, [Running(running, 0)], POLICY)
    settle(payer, [Running(running, 94)], POLICY)
    happened(payer)
    settle(payer, [Running(running, 95)], POLICY)
    assert happened(payer) == ["UsageSettled", "BalanceDepleted"]
    assert payer.balance_micros == 0


def test_a_refused_meter_gets_no_lease_and_counts_for_nothing() -> None:
    payer, refused, running = (
        account(),
        meter(job=1, rate=3_600_000_000),
        meter(job=2),
    )
    open_meter(payer, refused, POLICY)
    assert happened(refused) == ["LeaseRefused"]
    payer.grant_credit(2000 * SECOND, "top-up")
    settle(payer, [Running(refused, 0), Running(running, 0)], POLICY)
    assert (refused.paid_seconds, running.paid_seconds) == (0, 300)
    assert not payer.depleted
    assert not payer.low


def test_a_refused_job_does_not_deplete_the_account() -> None:
    payer, cheap, costly = (
        account(400 * SECOND),
        meter(job=1),
        meter(job=2, rate=10**12),
    )
    open_meter(payer, cheap, POLICY)
    open_meter(payer, costly, POLICY)
    close(payer, costly, elapsed_seconds=0, kept_seconds=0, policy=POLICY)
    assert not payer.depleted


def test_an_ended_segment_does_not_deplete_beside_a_lease() -> None:
    payer, first, second = account(600 * SECOND), meter(job=1), meter(job=2)
    settle(payer, [Running(first, 0), Running(second, 0)], POLICY)
    close(payer, first, elapsed_seconds=300, kept_seconds=300, policy=POLICY)
    assert payer.balance_micros == 300 * SECOND
    assert not payer.depleted
    close(payer, second, elapsed_seconds=300, kept_seconds=300, policy=POLICY)
    assert payer.balance_micros == 0
    assert payer.depleted


def test_an_immediate_credit_prevents_depletion() -> None:
    payer, running = account(100 * SECOND), meter()
    settle(payer, [Running(running, 0)], POLICY)
    close(payer, running, elapsed_seconds=100, kept_seconds=50, policy=POLICY)
    assert "BalanceDepleted" not in happened(payer)


@pytest.mark.parametrize(("elapsed", "low"), [(99, False), (100, False), (101, True)])
def test_the_runway_counts_unbilled_time(elapsed: int, low: bool) -> None:
    """1,000 s of money, of which the warning time is the last 900 s."""
    payer, running = account(1000 * SECOND), meter()
    settle(payer, [Running(running, 0)], POLICY)
    happened(payer)
    settle(payer, [Running(running, elapsed)], POLICY)
    assert payer.low is low
    warnings = [each for each in payer.pending_events if isinstance(each, Account.BalanceLow)]
    assert [each.runway_seconds for each in warnings] == ([899] if low else [])


def test_the_runway_covers_all_segments() -> None:
    payer, first, second = account(1500 * SECOND), meter(job=1), meter(job=2)
    settle(payer, [Running(first, 0)], POLICY)
    assert not payer.low
    settle(payer, [Running(first, 0), Running(second, 0)], POLICY)
    assert payer.low, "750 s for both"
    settle(payer, [Running(first, 0)], POLICY)
    assert not payer.low


def test_an_idle_account_is_not_low_and_is_warned_again() -> None:
    payer, first, second = account(100 * SECOND), meter(job=1), meter(job=2)
    settle(payer, [Running(first, 0)], POLICY)
    assert payer.low
    settle(payer, [Running(first, 100)], POLICY)
    close(payer, first, elapsed_seconds=100, kept_seconds=100, policy=POLICY)
    payer.grant_credit(200 * SECOND, "top-up")
    happened(payer)
    settle(payer, [], POLICY)
    assert happened(payer) == ["BalanceRecovered"]
    settle(payer, [], POLICY)
    open_meter(payer, second, POLICY)
    happened(payer)
    settle(payer, [Running(second, 0)], POLICY)
    settle(payer, [Running(second, 59)], POLICY)
    assert happened(payer) == ["BalanceLow"]


def test_segments_in_grace_cause_no_new_warning() -> None:
    payer, first, second = account(200 * SECOND), meter(job=1), meter(job=2)
    settle(payer, [Running(first, 0), Running(second, 0)], POLICY)
    settle(payer, [Running(first, 100), Running(second, 100)], POLICY)
    close(payer, first, elapsed_seconds=100, kept_seconds=100, policy=POLICY)
    settle(payer, [Running(second, 105)], POLICY)
    close(payer, second, elapsed_seconds=100, kept_seconds=100, policy=POLICY)
    settle(payer, [], POLICY)
    said = [each for each in happened(payer) if each in ("BalanceLow", "BalanceRecovered")]
    assert said == ["BalanceLow", "BalanceRecovered"]


def test_a_lease_without_a_meter_keeps_the_warning() -> None:
    payer, running = account(100 * SECOND), meter()
    settle(payer, [Running(running, 0)], POLICY)
    happened(payer)
    settle(payer, [], POLICY)
    assert happened(payer) == []
    assert payer.low


def test_free_segments_have_no_runway() -> None:
    payer, free = account(), meter(job=1, rate=0)
    settle(payer, [Running(free, 0)], POLICY)
    assert free.paid_seconds == 300
    assert happened(payer) == []


def test_a_tick_is_limited_to_one_save() -> None:
    policy = LeasePolicy(minute_seconds=1, lease_seconds=300, extension_seconds=60)
    payer = account(10**9)
    meters = [meter(job=job) for job in range(4)]
    settle(payer, [Running(each, 0) for each in meters], policy)
    ticks, events = 0, 0
    while not all(each.billed_seconds == 299 for each in meters):
        for each in (payer, *meters):
            happened(each)
        settle(payer, [Running(each, 299) for each in meters], policy)
        events = sum(len(each.pending_events) for each in (payer, *meters))
        assert 0 < events <= 500
        ticks += 1
    assert ticks == 3
    settle(payer, [Running(each, 299) for each in meters], policy)
    assert {each.paid_seconds for each in meters} == {599}


def test_a_lease_too_long_for_one_save_is_refused() -> None:
    with pytest.raises(ValueError, match="400 metered minutes"):
        LeasePolicy(minute_seconds=1, lease_seconds=401, extension_seconds=60)


def test_each_segment_s_second_is_rounded_up() -> None:
    assert second_micros([meter(job=1, rate=3600)]) == 1
    assert second_micros([meter(job=1, rate=3601)]) == 2
    assert second_micros([meter(job=1, rate=1), meter(job=2, rate=1)]) == 2
