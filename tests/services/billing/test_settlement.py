"""Settlement: minutes, leases and depletion."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import pytest

from domain.billing.account import Account
from domain.billing.budget import BudgetName, BudgetPeriod
from domain.billing.meter import Meter
from domain.billing.suspension import SuspensionReason
from domain.core.aggregate import Cause
from services.billing.settlement import (
    LeasePolicy,
    MeteredSegment,
    close,
    open_meter,
    runway_seconds,
    second_micros,
    settle,
)
from tests.builders.commands import command
from tests.builders.examples import POLICY, account, happened, meter

KEY, OTHER_KEY = (UUID(int=number) for number in (1, 2))

SECOND = 1000
"""Price of one second of the example meter, micro-dollars."""


@pytest.fixture(autouse=True)
def cause() -> Iterator[Cause]:
    with command() as cause:
        yield cause


def tick(payer: Account, *running: tuple[Meter, int]) -> None:
    """Settle an account whose segments have run for some seconds."""
    settle(payer, [MeteredSegment(*each) for each in running], POLICY)


def end(payer: Account, running: Meter, elapsed: int, kept: int | None = None) -> None:
    """Close the meter of an ended segment, which lost no work by default."""
    close(payer, running, elapsed, elapsed if kept is None else kept, POLICY)


def payer_with_lease(seconds: float) -> tuple[Account, Meter]:
    """Return an account with money for some seconds, and a meter with its first lease."""
    payer, running = account(int(seconds * SECOND)), meter()
    tick(payer, (running, 0))
    happened(payer)
    return payer, running


def payer_of_two(seconds: int) -> tuple[Account, Meter, Meter]:
    """Return an account with money for some seconds, and two meters without a lease."""
    return account(seconds * SECOND), meter(job=1), meter(job=2)


@pytest.mark.parametrize(
    ("seconds", "paid_seconds", "topics"),
    [
        (1000, 300, ["LeaseGranted"]),
        (120.999, 120, ["LeaseGranted"]),
        (0.999, 0, []),
    ],
    ids=["a full lease", "the balance to the second", "less than a second"],
)
def test_the_first_lease_is_limited_by_the_balance(
    seconds: float, paid_seconds: int, topics: list[str]
) -> None:
    payer, running = payer_with_lease(seconds)
    assert (running.paid_seconds, happened(running)) == (paid_seconds, topics)
    assert payer.reserved_micros == paid_seconds * SECOND


def test_a_minute_and_its_lease_extension_come_together() -> None:
    payer, running = payer_with_lease(1000)
    tick(payer, (running, 59))
    assert happened(running) == ["LeaseGranted"]
    tick(payer, (running, 60))
    assert happened(running) == ["MinuteMetered", "LeaseExtended"]
    assert happened(payer) == ["UsageSettled"]
    assert running.paid_seconds == 360
    assert (payer.balance_micros, payer.reserved_micros) == (940 * SECOND, 300 * SECOND)


@pytest.mark.parametrize("limit_seconds", [0.999, 1, 130.5, 299, 300, 301, 330])
def test_a_lease_ends_at_the_limit_of_its_segment(limit_seconds: float) -> None:
    payer, running = account(10_000 * SECOND), meter(limit_micros=int(limit_seconds * SECOND))
    open_meter(payer, running, POLICY)
    assert running.paid_seconds == min(int(limit_seconds), 300)
    for elapsed in (40, 140, 240, 310, 400):
        tick(payer, (running, elapsed))
    assert running.paid_seconds == running.billed_seconds == int(limit_seconds)
    assert running.refused is (limit_seconds < 1)


def test_a_higher_limit_extends_a_lease_that_is_not_used_up() -> None:
    payer, running = account(10_000 * SECOND), meter(limit_micros=100 * SECOND)
    tick(payer, (running, 0))
    running.change_limit(110 * SECOND)
    tick(payer, (running, 99))
    assert running.paid_seconds == 110
    running.change_limit(50 * SECOND)
    tick(payer, (running, 100))
    assert running.paid_seconds == 110, "a granted lease stays valid"
    running.change_limit(None)
    tick(payer, (running, 101))
    assert running.paid_seconds == 401


def test_other_segments_share_what_a_limited_segment_leaves() -> None:
    payer, limited, free = (
        account(300 * SECOND),
        meter(job=1, limit_micros=40 * SECOND),
        meter(job=2),
    )
    tick(payer, (limited, 0), (free, 0))
    assert (limited.paid_seconds, free.paid_seconds) == (40, 260)


def test_a_top_up_grants_a_waiting_lease() -> None:
    payer, running = payer_with_lease(0)
    payer.grant_credit(1000 * SECOND, "top-up")
    tick(payer, (running, 0))
    assert happened(running) == ["LeaseGranted"]
    assert running.paid_seconds == 300


def test_a_later_meter_extends_all_leases_equally() -> None:
    payer, first, second = account(10_000 * SECOND), meter(job=1), meter(job=2, rate=7_200_000)
    tick(payer, (first, 0))
    tick(payer, (first, 59), (second, 0))
    assert (first.paid_seconds - 59, second.paid_seconds) == (300, 300)


def test_a_lapsed_lease_is_neither_extended_nor_billed_further() -> None:
    payer, running = payer_with_lease(120)
    tick(payer, (running, 120))
    payer.grant_credit(1000 * SECOND, "too late")
    for elapsed in (30, 125):  # also after a clock has jumped back
        tick(payer, (running, elapsed))
    end(payer, running, 130)
    assert running.paid_seconds == running.billed_seconds == 120
    assert payer.balance_micros == 1000 * SECOND


@pytest.mark.parametrize(
    ("seconds", "before"), [(120.5, 60), (95, 94)], ids=["minute", "part of a minute"]
)
def test_the_last_minute_and_the_depletion_come_together(seconds: float, before: int) -> None:
    payer, running = payer_with_lease(seconds)
    tick(payer, (running, before))
    assert "BalanceDepleted" not in happened(payer)
    tick(payer, (running, int(seconds)))
    assert happened(payer) == ["UsageSettled", "BalanceDepleted"]


@pytest.mark.parametrize("billed", [0, 240], ids=["early", "after a clock jump"])
def test_an_ended_segment_is_settled_and_its_lease_released(billed: int) -> None:
    payer, running = payer_with_lease(1000)
    tick(payer, (running, billed))
    end(payer, running, 75)
    assert running.closed
    assert (payer.balance_micros, payer.reserved_micros) == ((1000 - 75) * SECOND, 0)


def test_work_lost_by_a_crash_is_credited() -> None:
    payer, running = payer_with_lease(1000)
    end(payer, running, 75, kept=50)
    reversal = payer.pending_events[-1]
    assert isinstance(reversal, Account.ChargeReversed)
    assert (reversal.from_seconds, reversal.to_seconds) == (50, 75)
    assert payer.balance_micros == (1000 - 50) * SECOND


def test_an_immediate_credit_prevents_depletion() -> None:
    payer, running = payer_with_lease(100)
    end(payer, running, 100, kept=50)
    assert not payer.depleted


def test_a_refused_meter_gets_no_lease_and_counts_for_nothing() -> None:
    payer, refused, running = account(), meter(job=1, rate=3_600_000_000), meter(job=2)
    open_meter(payer, refused, POLICY)
    assert happened(refused) == ["LeaseRefused"]
    payer.grant_credit(2000 * SECOND, "top-up")
    tick(payer, (refused, 0), (running, 0))
    assert (refused.paid_seconds, running.paid_seconds) == (0, 300)
    assert not payer.depleted
    assert not payer.low


def test_a_refused_job_does_not_deplete_the_account() -> None:
    payer, cheap, costly = account(400 * SECOND), meter(job=1), meter(job=2, rate=10**12)
    open_meter(payer, cheap, POLICY)
    open_meter(payer, costly, POLICY)
    end(payer, costly, 0)
    assert not payer.depleted


def test_only_the_last_segment_depletes_the_account() -> None:
    payer, first, second = payer_of_two(600)
    tick(payer, (first, 0), (second, 0))
    end(payer, first, 300)
    assert (payer.balance_micros, payer.depleted) == (300 * SECOND, False)
    end(payer, second, 300)
    assert (payer.balance_micros, payer.depleted) == (0, True)


@pytest.mark.parametrize(("elapsed", "runways"), [(99, []), (100, []), (101, [899])])
def test_the_runway_counts_unbilled_time(elapsed: int, runways: list[int]) -> None:
    """The account is warned for the last 900 s of 1,000 s."""
    payer, running = payer_with_lease(1000)
    tick(payer, (running, elapsed))
    assert payer.low is bool(runways)
    warnings = [each for each in payer.pending_events if isinstance(each, Account.BalanceLow)]
    assert [each.runway_seconds for each in warnings] == runways


def test_the_runway_covers_all_segments() -> None:
    payer, first, second = payer_of_two(1500)
    tick(payer, (first, 0))
    assert not payer.low
    tick(payer, (first, 0), (second, 0))
    assert payer.low, "750 s for both"
    tick(payer, (first, 0))
    assert not payer.low


def test_an_idle_account_is_not_low_and_is_warned_again() -> None:
    payer, first, second = payer_of_two(100)
    tick(payer, (first, 0))
    assert payer.low
    tick(payer, (first, 100))
    end(payer, first, 100)
    payer.grant_credit(200 * SECOND, "top-up")
    happened(payer)
    tick(payer)
    assert happened(payer) == ["BalanceRecovered"]
    tick(payer)
    open_meter(payer, second, POLICY)
    happened(payer)
    tick(payer, (second, 0))
    tick(payer, (second, 59))
    assert happened(payer) == ["BalanceLow"]


def test_segments_in_grace_cause_no_new_warning() -> None:
    payer, first, second = payer_of_two(200)
    tick(payer, (first, 0), (second, 0))
    tick(payer, (first, 100), (second, 100))
    end(payer, first, 100)
    tick(payer, (second, 105))
    end(payer, second, 100)
    tick(payer)
    said = [each for each in happened(payer) if each in ("BalanceLow", "BalanceRecovered")]
    assert said == ["BalanceLow", "BalanceRecovered"]


def test_a_lease_without_a_meter_keeps_the_warning() -> None:
    payer, _ = payer_with_lease(100)
    tick(payer)
    assert (happened(payer), payer.low) == ([], True)


def test_free_segments_have_no_runway() -> None:
    payer, free = account(), meter(rate=0)
    tick(payer, (free, 0))
    assert (free.paid_seconds, happened(payer)) == (300, [])


def test_a_tick_is_limited_to_one_save() -> None:
    policy = LeasePolicy(minute_seconds=1, lease_seconds=300, extension_seconds=60)
    payer, meters, ticks = account(10**9), [meter(job=job) for job in range(4)], 0
    settle(payer, [MeteredSegment(each, 0) for each in meters], policy)
    while not all(each.billed_seconds == 299 for each in meters):
        for each in (payer, *meters):
            happened(each)
        settle(payer, [MeteredSegment(each, 299) for each in meters], policy)
        assert 0 < sum(len(each.pending_events) for each in (payer, *meters)) <= 500
        ticks += 1
    assert ticks == 3
    settle(payer, [MeteredSegment(each, 299) for each in meters], policy)
    assert {each.paid_seconds for each in meters} == {599}


def test_a_lease_too_long_for_one_save_is_refused() -> None:
    with pytest.raises(ValueError, match="ECOLINK_LEASE_SECONDS"):
        LeasePolicy(minute_seconds=1, lease_seconds=401, extension_seconds=60)


@pytest.mark.parametrize(("rates", "micros"), [([3600], 1), ([3601], 2), ([1, 1], 2)])
def test_each_segments_second_is_rounded_up(rates: list[int], micros: int) -> None:
    assert second_micros([meter(job=job, rate=rate) for job, rate in enumerate(rates)]) == micros


def test_running_segments_share_the_budget_of_the_day() -> None:
    payer, first, second = payer_of_two(10_000)
    payer.set_budget(BudgetName(BudgetPeriod.DAY), 500 * SECOND, 0)
    tick(payer, (first, 0), (second, 0))
    assert (first.paid_seconds, second.paid_seconds) == (250, 250)
    tick(payer, (first, 250), (second, 250))
    assert payer.leasable_micros == 0
    topics = happened(payer)
    assert topics[-3:] == ["BudgetUsed"] * 3
    assert not payer.depleted


def test_a_used_up_budget_refuses_the_lease() -> None:
    payer, refused = account(10_000 * SECOND), meter()
    payer.set_budget(BudgetName(BudgetPeriod.MONTH), SECOND - 1, 0)
    open_meter(payer, refused, POLICY)
    assert refused.refused


def test_a_suspended_account_gets_no_lease_and_pays_for_its_used_time() -> None:
    payer, running = payer_with_lease(2000)
    payer.suspend(SuspensionReason.ABUSE)
    happened(payer)
    paid = running.paid_seconds
    tick(payer, (running, 120))
    assert running.paid_seconds == paid
    assert happened(payer) == ["UsageSettled"]
    refused = meter(job=2)
    open_meter(payer, refused, POLICY)
    assert refused.refused
    end(payer, running, 130)
    assert (payer.balance_micros, payer.reserved_micros) == (1870 * SECOND, 0)


def payer_with_key_budget(seconds: int) -> tuple[Account, Meter, Meter]:
    """Return an account whose key has a budget, a meter of that key and one of another key."""
    payer = account(10_000 * SECOND)
    payer.set_budget(BudgetName(BudgetPeriod.TOTAL, KEY), seconds * SECOND, 0)
    return payer, meter(job=1, key_id=KEY), meter(job=2, key_id=OTHER_KEY)


def test_the_budget_of_a_key_shortens_only_the_leases_of_its_segments() -> None:
    payer, limited, other = payer_with_key_budget(500)
    for each in (limited, other):
        open_meter(payer, each, POLICY)
    for elapsed in (60, 240, 300, 480):
        tick(payer, (limited, elapsed), (other, elapsed))
    assert (limited.paid_seconds, other.paid_seconds) == (500, 780)
    happened(payer)
    tick(payer, (limited, 500), (other, 540))
    assert limited.billed_seconds == limited.paid_seconds == 500
    assert happened(payer) == ["UsageSettled", "BudgetUsed"]
    end(payer, limited, 500)
    assert payer.reserved_for(KEY) == 0
    assert payer.reserved_for(OTHER_KEY) == payer.reserved_micros > 0


def test_the_segments_of_a_key_share_its_budget() -> None:
    payer, first, other = payer_with_key_budget(300)
    second = meter(job=3, key_id=KEY)
    tick(payer, (first, 0), (second, 0), (other, 0))
    assert [each.paid_seconds for each in (first, second, other)] == [150, 150, 300]


def test_a_used_up_budget_of_a_key_refuses_its_lease_alone() -> None:
    payer, limited, other = payer_with_key_budget(1)
    payer.set_budget(BudgetName(BudgetPeriod.DAY, KEY), SECOND - 1, 0)
    for each in (limited, other):
        open_meter(payer, each, POLICY)
    assert (limited.refused, other.refused) == (True, False)


def test_a_credit_leaves_more_of_the_budget_of_its_key() -> None:
    payer, limited, _ = payer_with_key_budget(500)
    open_meter(payer, limited, POLICY)
    end(payer, limited, 200, kept=150)
    assert payer.key_uses[KEY].charged_micros == 150 * SECOND
    assert payer.leasable_micros_for(KEY) == 350 * SECOND


def test_a_higher_budget_of_a_key_extends_its_lease() -> None:
    payer, limited, other = payer_with_key_budget(100)
    tick(payer, (limited, 0), (other, 0))
    assert limited.paid_seconds == 100
    payer.set_budget(BudgetName(BudgetPeriod.TOTAL, KEY), 110 * SECOND, 0)
    tick(payer, (limited, 50), (other, 50))
    assert (limited.paid_seconds, other.paid_seconds) == (110, 350)


def test_covered_time_needs_no_balance_and_depletes_no_account() -> None:
    payer, covered, charged = (
        account(100 * SECOND),
        meter(job=1, guarantee_micros=40 * SECOND),
        meter(job=2),
    )
    tick(payer, (covered, 0), (charged, 0))
    assert (covered.paid_seconds, charged.paid_seconds) == (60, 60)
    for elapsed in (30, 60):
        tick(payer, (covered, elapsed), (charged, elapsed))
    assert (covered.paid_seconds, charged.paid_seconds) == (360, 60)
    assert "BalanceDepleted" in happened(payer)


def test_a_covered_lease_is_full_at_a_balance_of_zero() -> None:
    payer, running = account(40 * SECOND), meter(guarantee_micros=40 * SECOND, most_seconds=700)
    open_meter(payer, running, POLICY)
    assert running.paid_seconds == 300
    for elapsed in (100, 200, 300, 500, 650):
        tick(payer, (running, elapsed))
    assert (running.paid_seconds, payer.balance_micros, payer.reserved_micros) == (700, 0, 0)
    end(payer, running, 700)
    assert (running.billed_seconds, payer.balance_micros, payer.depleted) == (700, 0, False)


def test_a_used_up_guarantee_opens_at_a_balance_of_zero() -> None:
    payer, running = account(), meter(guarantee_micros=0, most_seconds=500)
    open_meter(payer, running, POLICY)
    assert (running.paid_seconds, happened(payer)) == (300, [])


def test_a_used_up_budget_does_not_end_covered_time() -> None:
    payer, running = account(1000 * SECOND), meter(guarantee_micros=40 * SECOND, key_id=KEY)
    payer.set_budget(BudgetName(BudgetPeriod.TOTAL, KEY), 40 * SECOND, 0)
    open_meter(payer, running, POLICY)
    tick(payer, (running, 200))
    assert running.paid_seconds == 500


def test_a_suspended_account_gets_no_covered_lease() -> None:
    payer, running = account(), meter(guarantee_micros=0)
    payer.suspend(SuspensionReason.ABUSE)
    open_meter(payer, running, POLICY)
    assert running.refused
    later = meter(300, guarantee_micros=0)
    tick(payer, (later, 290))
    assert later.paid_seconds == 300


def test_covered_segments_shorten_no_runway() -> None:
    payer, charged = payer_with_lease(1000)
    segments = [MeteredSegment(charged, 0), MeteredSegment(meter(300, guarantee_micros=0), 0)]
    assert runway_seconds(payer, segments) == 1000
