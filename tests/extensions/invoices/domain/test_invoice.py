"""Invoices calculated from stored events."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.audit.sealed_event import StoredRow
from domain.billing.meter import Meter
from domain.core.event_log import EventLog
from domain.core.money import charge_micros
from domain.jobs.job import SegmentEnd
from extensions.invoices.domain.invoice import Invoice, Period, invoice_of, is_followed, rows_for
from extensions.invoices.domain.money_events import Inconsistent
from tests.builders.bills import Bills, Run, day
from tests.builders.examples import ACCOUNT_ID
from tests.extensions.invoices.bills import NOVEMBER, OCTOBER, rows_of, stored_rows, two_months


@pytest.fixture(scope="module")
def bills() -> Bills:
    return two_months(EventLog())


def invoice(bills: Bills, period: Period) -> Invoice:
    return invoice_of(ACCOUNT_ID, period, rows_for(ACCOUNT_ID, period, rows_of(bills.log)))


def test_an_invoice_has_the_payments_and_lines_of_its_period(bills: Bills) -> None:
    november = invoice(bills, NOVEMBER)
    assert [(each.kind, each.provider, each.reference) for each in november.paid_in] == [
        ("top-up", "manual", "transfer 17"),
        ("credit", None, "sorry"),
    ]
    assert (november.top_ups_micros, november.credits_micros) == (5_000_000, 250_000)
    first, second = november.lines
    assert (first.gpu_type, first.rate_micros_per_hour) == ("h100", 7_200_001)
    assert (first.segments, first.seconds, first.credited_seconds) == (1, 601, 0)
    assert first.amount_micros == charge_micros(7_200_001, 601)
    assert (second.seconds, second.credited_seconds) == (61, 60)
    assert second.credited_micros == charge_micros(7_200_001, 61) - charge_micros(7_200_001, 1)


def test_the_closing_balance_is_the_next_opening_balance(bills: Bills) -> None:
    october, november = invoice(bills, OCTOBER), invoice(bills, NOVEMBER)
    december = invoice(bills, Period.month("2026-12"))
    assert october.opening_micros == 0
    assert october.closing_micros == november.opening_micros
    assert november.closing_micros == december.opening_micros
    assert december.closing_micros == bills.history.account.balance_micros


@pytest.mark.parametrize("period", [OCTOBER, NOVEMBER])
def test_the_amounts_add_up(bills: Bills, period: Period) -> None:
    found = invoice(bills, period)
    assert found.charges_micros == sum(each.amount_micros for each in found.lines)
    assert found.lost_work_micros == sum(each.credited_micros for each in found.lines) > 0
    paid_in = found.top_ups_micros + found.credits_micros
    moved = paid_in - found.charges_micros + found.lost_work_micros
    assert found.opening_micros + moved == found.closing_micros


def job_at_two_rates() -> Bills:
    """Return an account with a job that was paused and resumed at twice the rate."""
    bills = Bills(EventLog(), day(11, 1))
    bills.history.open_account(9_000_000)
    bills.history.open_pool()
    bills.history.approve_job()
    for segment, rate in ((1, 3_600_000), (2, 7_200_000)):
        bills.history.allocate_segment(segment)
        bills.history.grant_lease(segment, 90)
        bills.history.start_pod(segment)
        bills.history.start_training(segment)
        bills.history.save_checkpoint(segment, 10 * segment, 60)
        if segment == 1:
            bills.history.pause()
        end = SegmentEnd.STOPPED if segment == 1 else SegmentEnd.CRASHED
        bills.history.end_segment(segment, end, 60, error_class=None if segment == 1 else "X")
        if segment == 1:
            bills.history.resume(rate_micros_per_hour=2 * rate)
    return bills


def test_a_job_at_two_rates_has_two_lines() -> None:
    lines = invoice(job_at_two_rates(), NOVEMBER).lines
    assert [(each.rate_micros_per_hour, each.amount_micros) for each in lines] == [
        (3_600_000, 60_000),
        (7_200_000, 120_000),
    ]


def test_a_segment_after_a_resume_is_at_the_rate_of_the_resume() -> None:
    rows = rows_for(ACCOUNT_ID, NOVEMBER, rows_of(job_at_two_rates().log))
    index = next(index for index, row in enumerate(rows) if row.topic == "JobResumed")
    state = json.loads(rows[index].state)
    state["rate_micros_per_hour"] -= 1_000_000
    rows[index] = rows[index]._replace(state=json.dumps(state).encode())
    with pytest.raises(Inconsistent, match=r"segment 2 .* charges \$7\.20 .* approved \$6\.20"):
        invoice_of(ACCOUNT_ID, NOVEMBER, rows)


def test_a_meter_at_another_rate_than_the_approved_one_is_refused() -> None:
    """Given a meter whose minutes cost its own rate, which the owner did not approve."""
    bills = Bills(EventLog(), day(11, 1))
    history = bills.history
    history.open_account(9_000_000)
    history.open_pool()
    history.approve_job()
    history.allocate_segment(1)
    rate = 2 * history.plan.rate_micros_per_hour
    with bills.command("open a meter"):
        meter = Meter.open(ACCOUNT_ID, history.job_id, 1, rate)
        account = history.account
        account.settle(captured_micros=0, reserved_micros=meter.extend_lease(90))
        history.log.commit(meter, account)
    history.start_pod(1)
    history.start_training(1)
    history.bill(1, 60)
    with pytest.raises(Inconsistent, match=r"segment 1 .* charges \$7\.20 .* approved \$3\.60"):
        invoice(bills, NOVEMBER)


def test_a_job_has_its_events_up_to_the_last_billed_segment() -> None:
    rows = rows_for(ACCOUNT_ID, NOVEMBER, rows_of(job_at_two_rates().log))
    topics = [row.topic for row in rows]
    assert topics.count("SegmentAllocated") == 2
    assert topics.count("SegmentEnded") == 1


def test_charges_from_before_the_account_s_period_are_only_in_the_opening_balance(
    bills: Bills,
) -> None:
    december = Period.month("2026-12")
    assert invoice(bills, december).lines == ()
    topics = {row.topic for row in rows_for(ACCOUNT_ID, december, rows_of(bills.log))}
    assert "MeterOpened" not in topics


def test_a_later_event_of_the_account_shows_that_none_is_missing(bills: Bills) -> None:
    rows = rows_of(bills.log)
    december = Period.month("2026-12")
    assert is_followed(ACCOUNT_ID, NOVEMBER, rows_for(ACCOUNT_ID, NOVEMBER, rows))
    assert not is_followed(ACCOUNT_ID, december, rows_for(ACCOUNT_ID, december, rows))


def test_a_missing_event_is_noticed(bills: Bills) -> None:
    """Except after the period, where events only show that none is missing in it."""
    rows = rows_for(ACCOUNT_ID, NOVEMBER, rows_of(bills.log))
    for index in range(len(rows) - 1):
        with pytest.raises(Inconsistent):
            invoice_of(ACCOUNT_ID, NOVEMBER, [*rows[:index], *rows[index + 1 :]])


def test_an_event_of_another_account_is_refused(bills: Bills) -> None:
    rows = rows_for(ACCOUNT_ID, NOVEMBER, rows_of(bills.log))
    with pytest.raises(Inconsistent, match="opened account"):
        invoice_of(UUID(int=9), NOVEMBER, rows)
    (opened,) = (row for row in rows if row.topic == "AccountOpened")
    foreign = opened._replace(originator_id=bytes(16))
    with pytest.raises(Inconsistent, match="neither a meter nor a job"):
        invoice_of(ACCOUNT_ID, NOVEMBER, [*rows, foreign])


@pytest.mark.parametrize(
    ("topic", "field", "change", "message"),
    [
        ("MinuteMetered", "amount_micros", lambda value: value + 1, "micro-dollars"),
        ("MinuteMetered", "from_seconds", lambda value: value + 1, "second"),
        ("MinuteMetered", "segment", lambda value: value + 1, "another segment"),
        ("MinuteMetered", "account_id", lambda _: str(bytes(16).hex()), "does not belong"),
        ("MeterOpened", "rate_micros_per_hour", lambda value: value + 3600, "cost"),
        ("MeterOpened", "segment", lambda value: value + 1, "not the meter"),
        ("JobApproved", "plan", lambda plan: {**plan, "rate_micros_per_hour": 1}, "approved"),
        ("SegmentAllocated", "segment", lambda value: value + 1, "allocated segment 2"),
        ("UsageSettled", "captured_micros", lambda value: value + 1, "deducted"),
        ("ChargeReversed", "amount_micros", lambda value: value - 1, "credit of"),
        ("LostWorkCredited", "to_seconds", lambda value: value - 1, "micro-dollars"),
        ("ToppedUp", "amount_micros", lambda _: "much", "cannot be read: amount_micros"),
    ],
)
def test_an_event_that_contradicts_others_is_named(
    bills: Bills, topic: str, field: str, change: Callable[..., object], message: str
) -> None:
    rows = rows_for(ACCOUNT_ID, NOVEMBER, rows_of(bills.log))
    index = max(
        index
        for index, row in enumerate(rows)
        if row.topic == topic and b'"timestamp":"2026-11' in row.state
    )
    state = json.loads(rows[index].state)
    state[field] = change(state[field])
    rows[index] = rows[index]._replace(state=json.dumps(state).encode())
    with pytest.raises(Inconsistent, match=message):
        invoice_of(ACCOUNT_ID, NOVEMBER, rows)


def test_a_month_ends_where_the_next_one_starts() -> None:
    assert Period.month("2026-12").end == Period.month("2027-01").start
    assert datetime(2026, 11, 30, 23, 59, 59, 999_999, tzinfo=UTC) in NOVEMBER
    assert NOVEMBER.end not in NOVEMBER


@pytest.mark.parametrize("text", ["2026", "2026-13", "11-2026", "x"])
def test_a_malformed_month_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Period.month(text)


RUNS = st.integers(1, 400).flatmap(
    lambda seconds: st.builds(
        Run,
        rate_micros_per_hour=st.integers(1, 30_000_000),
        seconds=st.just(seconds),
        kept_seconds=st.none() | st.integers(1, seconds),
    )
)


@settings(max_examples=25, deadline=None)
@given(runs=st.lists(st.tuples(RUNS, st.integers(0, 20)), min_size=1, max_size=5))
def test_invoices_of_any_days_add_up_to_the_account_s_balance(runs: list[tuple[Run, int]]) -> None:
    bills = Bills(EventLog())
    bills.history.open_account(50_000_000)
    for run, days in runs:
        bills.now += timedelta(days=days)
        bills.run(run)
    rows: list[StoredRow] = rows_of(bills.log)
    balance = 0
    for month in ("2026-10", "2026-11", "2026-12", "2027-01"):
        period = Period.month(month)
        found = invoice_of(ACCOUNT_ID, period, rows_for(ACCOUNT_ID, period, rows))
        assert found.opening_micros == balance
        balance = found.closing_micros
        assert found.charges_micros == sum(each.amount_micros for each in found.lines)
    assert balance == bills.history.account.balance_micros


def covered_job() -> Bills:
    """Return an account with a job that ran longer than its guarantee charges."""
    bills = Bills(EventLog(), day(11, 1))
    bills.history.run_covered(250)
    return bills


def test_covered_seconds_cost_nothing() -> None:
    found = invoice(covered_job(), NOVEMBER)
    (line,) = found.lines
    assert (line.seconds, line.covered_seconds) == (250, 94)
    assert (line.amount_micros, line.covered_micros) == (156_000, 94_000)
    assert (found.charges_micros, found.closing_micros) == (156_000, 0)


@pytest.mark.parametrize("value", ["1", "null"])
def test_a_changed_covered_amount_is_found(value: str) -> None:
    old, new = (f'"covered_micros":{each}'.encode() for each in ("60000", value))
    rows = [
        row._replace(state=row.state.replace(old, new)) for row in stored_rows(covered_job().log)
    ]
    with pytest.raises(Inconsistent, match="covers"):
        invoice_of(ACCOUNT_ID, NOVEMBER, rows)
