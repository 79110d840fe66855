"""Statements by day and by job, in the account's time zone, and their CSV export."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from domain.access.role import Role
from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from projections import BILLING_LEDGER
from projections.billing_ledger import postings_of
from projections.statement_csv import daily_csv, job_csv, ledger_csv
from projections.statements import daily_statement, job_statement
from tests.builders.commands import NOW
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.builders.history import History
from tests.projections.conftest import Fold

BERLIN = "Europe/Berlin"
SECOND_MICROS = 1000
TODAY = NOW.date()

Bill = Callable[..., None]


@pytest.fixture
def bill(log: EventLog) -> Bill:
    """Bill some seconds of a job's first segment at a moment, and credit the last of them."""

    def run(moment: datetime, job_id: UUID, seconds: int, credited_seconds: int = 0) -> None:
        with because(Cause("service:test", f"{job_id} {moment}", moment)):
            account = log.load(Account, ACCOUNT_ID)
            meter = Meter.open(ACCOUNT_ID, job_id, 1, 3600 * SECOND_MICROS)
            account.settle(captured_micros=0, reserved_micros=meter.extend_lease(3600))
            charge, released = meter.close(seconds, 60)
            account.settle(captured_micros=charge, reserved_micros=-released)
            kept = seconds - credited_seconds
            if credit := meter.credit_lost_work(kept):
                account.reverse_charge(credit, job_id, 1, kept, seconds)
            log.commit(account, meter)

    return run


@pytest.fixture
def opened(log: EventLog) -> None:
    """Open an account in Berlin with $10."""
    with because(Cause("operator", "open", datetime(2026, 1, 1, tzinfo=UTC))):
        account = Account.open(ACCOUNT_ID, Role.OWNER, BERLIN)
        account.grant_credit(10_000_000, "first")
        log.commit(account)


def job(number: int) -> UUID:
    return uuid5(JOB_ID, str(number))


@pytest.mark.usefixtures("opened")
def test_a_day_is_a_day_of_the_accounts_time_zone(fold: Fold, bill: Bill) -> None:
    bill(datetime(2026, 11, 24, 22, 59, 59, tzinfo=UTC), job(1), 60)
    bill(datetime(2026, 11, 24, 23, 0, 0, tzinfo=UTC), job(2), 120)
    days = date(2026, 11, 24), date(2026, 11, 25)
    first, second = daily_statement(fold(BILLING_LEDGER), ACCOUNT_ID, BERLIN, *days)
    assert (first.opening_micros, first.charges_micros) == (10_000_000, 60_000)
    assert (second.opening_micros, second.charges_micros) == (9_940_000, 120_000)
    assert second.closing_micros == 9_820_000


@pytest.mark.full
@pytest.mark.usefixtures("opened")
@pytest.mark.parametrize(
    ("day", "hours"), [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25), (date(2026, 6, 1), 24)]
)
def test_a_day_includes_all_its_hours_when_clocks_change(
    fold: Fold, bill: Bill, day: date, hours: int
) -> None:
    midnight = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(BERLIN)).astimezone(UTC)
    for number in range(-1, hours + 1):
        bill(midnight + timedelta(hours=number), job(number), 1)
    around = day - timedelta(1), day + timedelta(1)
    days = daily_statement(fold(BILLING_LEDGER), ACCOUNT_ID, BERLIN, *around)
    assert [each.charges_micros // SECOND_MICROS for each in days] == [1, hours, 1]
    assert [each.opening_micros for each in days[1:]] == [each.closing_micros for each in days[:-1]]


def test_a_statement_sums_movements_by_day_and_by_job(history: History, fold: Fold) -> None:
    history.run_with_a_crash()
    history.top_up(250_000, "INV-7")
    connection = fold(BILLING_LEDGER)
    (day,) = daily_statement(connection, ACCOUNT_ID, "UTC", TODAY, TODAY)
    (row,) = job_statement(connection, ACCOUNT_ID, "UTC", TODAY, TODAY)
    ledger = {row["event_id"]: row for row in postings_of(connection, ACCOUNT_ID)}
    assert (day.opening_micros, day.closing_micros) == (0, history.account.balance_micros)
    assert (day.credits_micros, day.top_ups_micros) == (1_000_000, 250_000)
    assert (day.charges_micros, day.reversals_micros) == (230_000, 60_000)
    assert (row.job_id, row.segments, row.minutes) == (JOB_ID, 2, 5)
    assert (row.seconds, row.reversed_seconds) == (230, 60)
    assert (row.charges_micros, row.reversals_micros, row.net_micros) == (
        *(230_000, 60_000),
        170_000,
    )
    for each in (day, row):
        for movement, ids in each.event_ids.items():
            total = sum(ledger[event_id]["amount_micros"] for event_id in ids)
            assert total == getattr(each, f"{movement}_micros")


def test_a_day_without_movements_closes_with_its_opening_balance(
    history: History, fold: Fold
) -> None:
    history.open_account(1000)
    connection = fold(BILLING_LEDGER)
    around = TODAY - timedelta(1), TODAY + timedelta(1)
    days = daily_statement(connection, ACCOUNT_ID, "UTC", *around)
    assert job_statement(connection, ACCOUNT_ID, "UTC", TODAY, TODAY) == []
    assert [(each.opening_micros, each.closing_micros) for each in days] == [
        *((0, 0), (0, 1000)),
        (1000, 1000),
    ]


@pytest.mark.usefixtures("opened")
@hypothesis_settings(
    max_examples=10,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    bills=st.lists(
        st.tuples(st.integers(0, 10 * 24 * 60), st.integers(1, 200), st.integers(0, 200)),
        max_size=8,
    )
)
def test_days_and_jobs_sum_to_the_balance(
    log: EventLog, bill: Bill, fold: Fold, bills: list[tuple[int, int, int]]
) -> None:
    start = datetime(2026, 10, 20, tzinfo=UTC)
    with because(Cause("operator", "credit", start)):
        account = log.load(Account, ACCOUNT_ID)
        version = account.version
        account.grant_credit(2_000_000, f"credit {version}")
        log.commit(account)
    for number, (minute, seconds, credited) in enumerate(sorted(bills)):
        moment = start + timedelta(minutes=minute)
        bill(moment, uuid5(JOB_ID, f"{version} {number}"), seconds, min(credited, seconds))
    connection, period = fold(BILLING_LEDGER), (date(2026, 10, 19), date(2026, 11, 1))
    days = daily_statement(connection, ACCOUNT_ID, BERLIN, *period)
    jobs = job_statement(connection, ACCOUNT_ID, BERLIN, *period)
    assert days[-1].closing_micros == log.load(Account, ACCOUNT_ID).balance_micros
    charged = sum(each.charges_micros - each.reversals_micros for each in days)
    assert sum(each.net_micros for each in jobs) == charged


def cells(lines: Iterable[str]) -> list[dict[str, Any]]:
    return list(csv.DictReader(io.StringIO("".join(lines), newline="")))


def test_the_ledger_as_csv_has_every_posting(history: History, fold: Fold) -> None:
    history.run_with_a_crash()
    postings = postings_of(fold(BILLING_LEDGER), ACCOUNT_ID)
    rows = cells(ledger_csv(postings))
    assert [row["event_id"] for row in rows] == [row["event_id"] for row in postings]
    assert (rows[0]["amount"], rows[0]["amount_micros"]) == ("1.000000", "1000000")
    assert rows[0]["posted_at"] == NOW.isoformat()
    assert (rows[0]["reference"], rows[0]["job_id"]) == ("first", "")


def test_a_reference_is_never_a_formula(history: History, fold: Fold) -> None:
    references = ("=1+2", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1")
    history.open_account(1000)
    with history.changing_account() as account:
        for each in references:  # directly, because `grant_credit` refuses such a reference
            account.trigger_event(Account.CreditGranted, amount_micros=1, reference=each)
    _, *rows = cells(ledger_csv(postings_of(fold(BILLING_LEDGER), ACCOUNT_ID)))
    assert [row["reference"] for row in rows] == [f"'{each}" for each in references]


def test_statements_as_csv_have_signs_and_both_units(history: History, fold: Fold) -> None:
    history.run_with_a_crash()
    connection = fold(BILLING_LEDGER)
    days = daily_statement(connection, ACCOUNT_ID, "UTC", TODAY, TODAY)
    jobs = job_statement(connection, ACCOUNT_ID, "UTC", TODAY, TODAY)
    (day,) = cells(daily_csv(days))
    assert (day["day"], day["closing"], day["closing_micros"]) == (
        *("2026-11-24", "0.830000"),
        "830000",
    )
    assert len(day["postings"].split()) == 1 + 5 + 1
    (row,) = cells(job_csv(jobs, {JOB_ID: ("support", "chats.jsonl", "tiny")}))
    assert (row["name"], row["dataset"], row["base_model"]) == ("support", "chats.jsonl", "tiny")
    assert (row["job_id"], row["net"], row["minutes"]) == (str(JOB_ID), "0.170000", "5")
    (unnamed,) = cells(job_csv(jobs, {}))
    assert (unnamed["name"], unnamed["net"]) == ("", row["net"])
    days[0].charges_micros = 2_000_000
    (day,) = cells(daily_csv(days))
    assert day["closing"] == "-0.940000"  # a negative number is not escaped as a formula
