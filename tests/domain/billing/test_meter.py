from __future__ import annotations

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from domain.billing.meter import Meter
from domain.core.aggregate import Cause, because
from domain.core.errors import WrongState
from domain.core.money import charge_micros, charge_within
from tests.builders.commands import NOW
from tests.builders.examples import meter
from tests.builders.scenario import fact, topics, when


def test_the_first_lease_is_granted_and_later_ones_extend_it() -> None:
    given = meter()
    assert (given.extend_lease(300), given.extend_lease(60)) == (300_000, 60_000)
    assert given.collect_events() == [
        fact("LeaseGranted", paid_seconds=300),
        fact("LeaseExtended", paid_seconds=360),
    ]


@pytest.mark.parametrize(
    ("paid_seconds", "elapsed", "charges"),
    [
        pytest.param(300, [59, 150, 150], [0, 120_000, 0], id="only whole minutes"),
        pytest.param(60, [1000], [60_000], id="never beyond the lease"),
        pytest.param(95, [94, 95, 200], [60_000, 35_000, 0], id="the end of a used-up lease"),
    ],
)
def test_minutes_are_billed(paid_seconds: int, elapsed: list[int], charges: list[int]) -> None:
    given = meter(paid_seconds)
    assert [given.post_minutes(seconds, 60) for seconds in elapsed] == charges
    posted = given.collect_events()
    assert sum(each.amount_micros for each in posted) == sum(charges)  # type: ignore[attr-defined]
    assert given.minutes == len(posted)


def test_at_most_some_minutes_are_posted_in_one_save() -> None:
    given = meter(paid_seconds=300)
    charges = [given.post_minutes(300, 60, at_most=most) for most in (2, 0, 9)]
    assert charges == [120_000, 0, 180_000]


def test_a_lease_is_refused_once() -> None:
    given = meter()
    assert topics(when(given, Meter.refuse_lease, Meter.refuse_lease)) == ["LeaseRefused"]
    assert given.close(0, 60) == (0, 0)


def test_a_limit_pays_for_whole_seconds() -> None:
    given = meter(limit_micros=120_499)
    assert (given.limit_seconds, meter().limit_seconds) == (120, None)
    given.extend_lease(120)
    with pytest.raises(AssertionError, match="beyond the limit"):
        given.extend_lease(1)


def test_a_limit_changes_once() -> None:
    given = meter(limit_micros=50_000)
    changes = [lambda given, to=to: given.change_limit(to) for to in (50_000, 80_000, None, None)]
    assert when(given, *changes) == [
        fact("SegmentLimitChanged", limit_micros=80_000),
        fact("SegmentLimitChanged", limit_micros=None),
    ]


def test_a_meter_commits_its_lease_and_then_its_bill_without_credits() -> None:
    given = meter(paid_seconds=300)
    given.post_minutes(120, 60)
    assert given.committed_micros == 300_000
    given.close(200, 60)
    assert given.committed_micros == 200_000
    given.credit_lost_work(150)
    given.credit_lost_work(40)
    assert given.committed_micros == 40_000


def test_closing_bills_to_the_second_and_releases_the_rest_of_the_lease() -> None:
    given = meter(paid_seconds=300)
    assert given.close(95, 60) == (95_000, 205_000)
    assert given.collect_events() == [
        fact("MinuteMetered", minute=1, from_seconds=0, to_seconds=60, amount_micros=60_000),
        fact("MinuteMetered", minute=2, from_seconds=60, to_seconds=95, amount_micros=35_000),
        fact("MeterClosed", billed_seconds=95, released_micros=205_000),
    ]
    with pytest.raises(WrongState):
        given.post_minutes(200, 60)


def test_a_billed_minute_stays_billed_if_the_final_report_is_shorter() -> None:
    given = meter(paid_seconds=300)
    given.post_minutes(120, 60)
    assert given.close(100, 60) == (0, 180_000)
    assert given.billed_seconds == 120


def test_lost_work_is_credited_once_and_again_from_an_earlier_checkpoint() -> None:
    given = meter(paid_seconds=300)
    given.close(200, 60)
    given.collect_events()
    credits = [given.credit_lost_work(kept) for kept in (200, 150, 150, 40, 60)]
    assert credits == [0, 50_000, 0, 110_000, 0]
    assert given.collect_events() == [
        fact("LostWorkCredited", from_seconds=150, to_seconds=200, amount_micros=50_000),
        fact("LostWorkCredited", from_seconds=40, to_seconds=150, amount_micros=110_000),
    ]


@for_all(
    st.integers(1, 10**8),
    st.integers(1, 2000),
    st.lists(st.integers(0, 3000)),
    st.integers(0, 3000),
)
def test_the_bill_is_the_rate_times_the_seconds_in_any_order_of_reports(
    rate: int, paid: int, evidence: list[int], last: int
) -> None:
    with because(Cause("service:test", "c", NOW)):
        given = meter(paid, rate=rate)
        charged = sum(given.post_minutes(seconds, 60) for seconds in evidence)
        charge, released = given.close(last, 60)
    posted = [paid if shown >= paid else shown // 60 * 60 for shown in evidence]
    seconds = max([min(last, paid), *posted])
    assert given.billed_seconds == seconds
    assert charged + charge == (2 * rate * seconds + 3600) // 7200
    assert charged + charge + released == (2 * rate * paid + 3600) // 7200


def test_charges_stop_at_the_guarantee_and_the_rest_is_covered() -> None:
    given = meter(guarantee_micros=100_000, most_seconds=300)
    reserved = given.extend_lease(300)
    assert (reserved, given.limit_seconds, given.is_covered) == (100_000, 300, True)
    assert given.post_minutes(200, 60) == 100_000
    assert given.close(250, 60) == (0, 0)
    minutes = [each for each in given.collect_events() if isinstance(each, Meter.MinuteMetered)]
    assert [(each.to_seconds, each.amount_micros, each.covered_micros) for each in minutes] == [
        (60, 60_000, None),
        (100, 40_000, None),
        (160, 0, 60_000),
        (180, 0, 20_000),
        (240, 0, 60_000),
        (250, 0, 10_000),
    ]
    assert sum(each.covered_seconds for each in minutes) == 150


def test_a_used_up_guarantee_covers_the_whole_segment() -> None:
    given = meter(guarantee_micros=999)
    assert (given.is_covered, given.second_micros) == (True, 0)
    assert given.extend_lease(60) == 0
    assert given.post_minutes(60, 60) == 0


def test_only_charged_time_is_credited() -> None:
    given = meter(300, guarantee_micros=100_000)
    given.close(250, 60)
    assert given.committed_micros == 100_000
    assert (given.credit_lost_work(120), given.committed_micros) == (0, 100_000)
    assert (given.credit_lost_work(40), given.committed_micros) == (60_000, 40_000)


@for_all(
    rate=st.integers(1, 10**8),
    guarantee=st.integers(0, 10**7),
    reports=st.lists(st.integers(0, 900), max_size=8),
    end=st.integers(0, 900),
)
def test_charged_and_covered_seconds_are_the_evidence(
    rate: int, guarantee: int, reports: list[int], end: int
) -> None:
    with because(Cause("service:billing", "bill", NOW)):
        given = meter(900, rate=rate, guarantee_micros=guarantee)
        given.collect_events()
        for elapsed in reports:
            given.post_minutes(elapsed, 60)
        given.close(end, 60)
    minutes = [each for each in given.collect_events() if isinstance(each, Meter.MinuteMetered)]
    charged = sum(each.amount_micros for each in minutes)
    covered = sum(each.covered_seconds for each in minutes)
    assert charged == charge_within(rate, given.billed_seconds, guarantee) <= guarantee
    assert covered == max(0, given.billed_seconds - (given.charged_seconds or 0))
    assert all(each.amount_micros == 0 for each in minutes if each.covered_seconds)
    listed = charge_micros(rate, given.billed_seconds)
    assert charged + sum(each.covered_micros or 0 for each in minutes) == listed
