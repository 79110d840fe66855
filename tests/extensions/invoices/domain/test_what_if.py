"""Bills under other prices."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.core.event_log import EventLog
from domain.core.money import charge_micros
from domain.jobs.job import SegmentEnd
from extensions.invoices.domain.money_events import Inconsistent
from extensions.invoices.domain.what_if import (
    TOPICS,
    Comparison,
    Rounding,
    by_account,
    by_gpu_type,
    reprice,
)
from tests.builders.bills import Bills, Run, day
from tests.builders.examples import ACCOUNT_ID
from tests.builders.history import History
from tests.extensions.invoices.bills import NOVEMBER, stored_rows, two_months


def total(log: EventLog, **options: object) -> Comparison:
    rows = [row for row in stored_rows(log) if row.topic in TOPICS]
    prices = options.pop("prices", {})
    return sum(reprice(rows, prices, **options).values(), Comparison())  # type: ignore[arg-type]


@pytest.fixture
def bills() -> Bills:
    bills = Bills(EventLog())
    bills.history.open_account(90_000_000)
    return bills


def test_the_charged_prices_make_no_difference(bills: Bills) -> None:
    bills.run(Run(3_600_000, 130))
    bills.run(Run(3_600_000, 130, kept_seconds=40))
    compared = total(bills.log, prices={"cpu": 3_600_000})
    assert compared.charged_micros == compared.repriced_micros == 170_000
    assert compared.seconds == 170


def test_a_gpu_type_without_a_price_keeps_its_rate(bills: Bills) -> None:
    bills.run(Run(3_600_000, 130))
    assert total(bills.log, prices={"h100": 1}).difference_micros == 0


def test_a_lower_price_saves_money(bills: Bills) -> None:
    bills.run(Run(3_600_000, 130, kept_seconds=40))
    compared = total(bills.log, prices={"cpu": 1_800_000})
    assert (compared.charged_micros, compared.repriced_micros) == (40_000, 20_000)
    assert compared.difference_micros == -20_000


@pytest.mark.parametrize(("seconds", "billed"), [(1, 60), (60, 60), (61, 120), (130, 180)])
def test_segments_are_rounded_up_to_minutes(bills: Bills, seconds: int, billed: int) -> None:
    bills.run(Run(3_600_000, seconds))
    compared = total(bills.log, rounding=Rounding.MINUTE)
    assert compared.repriced_micros == charge_micros(3_600_000, billed)
    assert compared.seconds == seconds


def test_a_price_is_of_one_gpu(bills: Bills) -> None:
    """The job resumes on two GPUs."""
    history = bills.history
    history.open_pool(2)
    history.approve_job()
    for segment, gpus in ((1, 1), (2, 2)):
        if segment == 2:
            history.resume(rate_micros_per_hour=7_200_000, gpu_count=gpus)
            history.plan = history.plan.model_copy(update={"gpu_count": gpus})
        history.allocate_segment(segment)
        history.grant_lease(segment, 90)
        history.start_pod(segment)
        history.start_training(segment)
        history.save_checkpoint(segment, 10 * segment, 60)
        if segment == 1:
            history.pause()
        reason = SegmentEnd.STOPPED if segment == 1 else SegmentEnd.CRASHED
        history.end_segment(segment, reason, 60, error_class=None if segment == 1 else "X")
    compared = total(bills.log, prices={"cpu": 36_000_000})
    assert compared.repriced_micros == 600_000 + 1_200_000


def test_only_the_period_counts() -> None:
    log = two_months(EventLog()).log
    rows = stored_rows(log)
    november = reprice(rows, {"h100": 0}, period=NOVEMBER)
    assert {group.gpu_type for group in november} == {"h100", "cpu"}
    assert by_gpu_type(november)["h100"].repriced_micros == 0
    assert by_gpu_type(november)["cpu"].charged_micros == 60_000  # the other account's
    whole = by_account(reprice(rows, {}))
    assert whole[ACCOUNT_ID].charged_micros > by_account(november)[ACCOUNT_ID].charged_micros


def test_a_missing_event_is_named(bills: Bills) -> None:
    bills.run(Run(3_600_000, 130))
    rows = stored_rows(bills.log)
    for topic, message in (("SegmentAllocated", "allocated GPUs"), ("MeterOpened", "no meter")):
        with pytest.raises(Inconsistent, match=message):
            reprice([row for row in rows if row.topic != topic], {})


@settings(max_examples=20, deadline=None)
@given(
    seconds=st.integers(1, 400),
    price=st.integers(0, 30_000_000),
    rounding=st.sampled_from(Rounding),
    data=st.data(),
)
def test_a_replay_bills_like_a_meter_at_the_other_price(
    seconds: int, price: int, rounding: Rounding, data: st.DataObject
) -> None:
    bills = Bills(EventLog(), day(11, 1))
    bills.history.open_account(90_000_000)
    kept = data.draw(st.none() | st.integers(1, seconds))
    bills.run(Run(3_600_000, seconds, kept_seconds=kept))
    billed = seconds if kept is None else kept
    repriced = total(bills.log, prices={"cpu": price}, rounding=rounding).repriced_micros
    assert repriced == charge_micros(price, rounding.round_up(billed))


def test_covered_time_is_free_at_other_prices(bills: Bills) -> None:
    log = EventLog()
    History(log).run_covered(250)
    compared = total(log, prices={"cpu": 1_800_000})
    assert (compared.seconds, compared.charged_micros) == (250, 156_000)
    assert compared.repriced_micros == 78_000
