"""Meter: minutes as facts, leases as seconds, settlement to the second."""

from __future__ import annotations

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from domain.billing.meter import Meter
from domain.core.aggregate import Cause, because
from domain.core.errors import WrongState
from tests.builders.examples import happened, meter
from tests.domain.conftest import NOW


def test_the_first_lease_is_granted_and_later_ones_extend_it() -> None:
    given = meter()
    assert given.extend_lease(300) == 300_000
    assert given.extend_lease(60) == 60_000
    assert happened(given) == ["LeaseGranted", "LeaseExtended"]
    assert given.paid_seconds == 360


def test_only_whole_minutes_are_posted_while_it_runs() -> None:
    given = meter(paid_seconds=300)
    assert given.post_minutes(59, 60) == 0
    assert given.post_minutes(150, 60) == 120_000
    assert given.post_minutes(150, 60) == 0
    assert happened(given) == ["MinuteMetered", "MinuteMetered"]


def test_time_beyond_the_lease_is_never_billed() -> None:
    given = meter(paid_seconds=60)
    assert given.post_minutes(1000, 60) == 60_000
    assert given.billed_seconds == 60


def test_the_last_part_minute_of_a_used_up_lease_is_due_at_once() -> None:
    given = meter(paid_seconds=95)
    assert given.post_minutes(94, 60) == 60_000
    assert given.post_minutes(95, 60) == 35_000
    assert given.post_minutes(200, 60) == 0
    assert (given.minutes, given.billed_seconds) == (2, 95)


def test_no_more_minutes_are_posted_than_a_save_can_hold() -> None:
    given = meter(paid_seconds=300)
    assert given.post_minutes(300, 60, at_most=2) == 120_000
    assert given.post_minutes(300, 60, at_most=0) == 0
    assert given.post_minutes(300, 60, at_most=9) == 180_000


def test_a_lease_is_refused_once() -> None:
    given = meter()
    given.refuse_lease()
    given.refuse_lease()
    assert happened(given) == ["LeaseRefused"]
    assert given.close(0, 60) == (0, 0)


def test_closing_bills_the_part_minute_and_gives_the_lease_back() -> None:
    given = meter(paid_seconds=300)
    assert given.close(95, 60) == (95_000, 205_000)
    assert happened(given) == ["MinuteMetered", "MinuteMetered", "MeterClosed"]
    with pytest.raises(WrongState):
        given.post_minutes(200, 60)


def test_a_meter_that_never_ran_closes_with_nothing() -> None:
    given = meter()
    assert given.close(0, 60) == (0, 0)
    assert happened(given) == ["MeterClosed"]


def test_what_was_billed_on_earlier_evidence_stays_billed() -> None:
    given = meter(paid_seconds=300)
    given.post_minutes(120, 60)
    assert given.close(100, 60) == (0, 180_000)
    assert given.billed_seconds == 120


def test_lost_work_is_credited_once_back_to_the_checkpoint() -> None:
    given = meter(paid_seconds=300)
    given.close(200, 60)
    assert given.credit_lost_work(kept_seconds=150) == 50_000
    assert given.credit_lost_work(kept_seconds=150) == 0
    assert happened(given)[-1] == "LostWorkCredited"


def test_work_that_is_lost_later_is_credited_from_where_the_credit_before_began() -> None:
    given = meter(paid_seconds=300)
    given.close(200, 60)
    assert given.credit_lost_work(kept_seconds=150) == 50_000
    assert given.credit_lost_work(kept_seconds=40) == 110_000
    assert given.credit_lost_work(kept_seconds=60) == 0
    first, second = [e for e in given.collect_events() if isinstance(e, Meter.LostWorkCredited)]
    assert (first.from_seconds, first.to_seconds) == (150, 200)
    assert (second.from_seconds, second.to_seconds) == (40, 150)


def test_no_work_lost_is_nothing_credited() -> None:
    given = meter(paid_seconds=300)
    given.close(200, 60)
    assert given.credit_lost_work(kept_seconds=200) == 0


@for_all(
    st.integers(1, 10**8),
    st.integers(1, 2000),
    st.lists(st.integers(0, 3000)),
    st.integers(0, 3000),
)
def test_however_evidence_comes_the_bill_is_rate_times_seconds(
    rate: int, paid: int, evidence: list[int], last: int
) -> None:
    with because(Cause("service:test", "c", NOW)):
        given = Meter.open(
            account_id=meter().account_id,
            job_id=meter().job_id,
            segment=1,
            rate_micros_per_hour=rate,
        )
        given.extend_lease(paid)
        charged = sum(given.post_minutes(seconds, 60) for seconds in evidence)
        charge, released = given.close(last, 60)
    posted = [paid if shown >= paid else shown // 60 * 60 for shown in evidence]
    seconds = max([min(last, paid), *posted])
    assert given.billed_seconds == seconds
    assert charged + charge == (2 * rate * seconds + 3600) // 7200
    assert charged + charge + released == (2 * rate * paid + 3600) // 7200
