"""Statements: every day and job adds up, to the micro-dollar and in the account's own days."""

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
from psycopg_pool import ConnectionPool

from domain.access.role import Role
from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from infrastructure.store import Connection
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

Bill = Callable[[datetime, UUID, int, int], None]


@pytest.fixture
def bill(log: EventLog, fold: Fold) -> Bill:
    """Bills some seconds of a job's first segment at a moment, and credits the last of them."""

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
        fold(BILLING_LEDGER)

    return run


@pytest.fixture
def opened(log: EventLog) -> None:
    """An account in Berlin that was given 10 dollars long ago."""
    with because(Cause("operator", "open", datetime(2026, 1, 1, tzinfo=UTC))):
        account = Account.open(ACCOUNT_ID, Role.USER, BERLIN)
        account.grant_credit(10_000_000, "first")
        log.commit(account)


def job(number: int) -> UUID:
    return uuid5(JOB_ID, str(number))


@pytest.mark.usefixtures("opened")
def test_a_day_is_the_accounts_own_day(pool: ConnectionPool[Connection], bill: Bill) -> None:
    """In Berlin the 25th of November begins at 23:00 UTC of the 24th."""
    bill(datetime(2026, 11, 24, 22, 59, 59, tzinfo=UTC), job(1), 60)
    bill(datetime(2026, 11, 24, 23, 0, 0, tzinfo=UTC), job(2), 120)
    with pool.connection() as connection:
        first, second = daily_statement(
            connection, ACCOUNT_ID, BERLIN, date(2026, 11, 24), date(2026, 11, 25)
        )
    assert (first.opening_micros, first.charges_micros) == (10_000_000, 60_000)
    assert (second.opening_micros, second.charges_micros) == (9_940_000, 120_000)
    assert second.closing_micros == 9_820_000


@pytest.mark.usefixtures("opened")
@pytest.mark.parametrize(
    ("day", "hours"), [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25), (date(2026, 6, 1), 24)]
)
def test_a_day_on_which_clocks_change_is_whole(
    pool: ConnectionPool[Connection], bill: Bill, day: date, hours: int
) -> None:
    midnight = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(BERLIN)).astimezone(UTC)
    for number in range(-1, hours + 1):
        bill(midnight + timedelta(hours=number), job(number), 1)
    with pool.connection() as connection:
        days = daily_statement(
            connection, ACCOUNT_ID, BERLIN, day - timedelta(1), day + timedelta(1)
        )
    charged = [each.charges_micros // SECOND_MICROS for each in days]
    assert charged == [1, hours, 1]
    assert [each.opening_micros for each in days[1:]] == [each.closing_micros for each in days[:-1]]


def test_movements_have_their_columns_and_their_postings(
    pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.run_with_a_crash()
    history.top_up(250_000, "INV-7")
    fold(BILLING_LEDGER)
    with pool.connection() as connection:
        (day,) = daily_statement(connection, ACCOUNT_ID, "UTC", NOW.date(), NOW.date())
        ledger = {row["event_id"]: row for row in postings_of(connection, ACCOUNT_ID)}
    assert (day.opening_micros, day.closing_micros) == (0, history.account.balance_micros)
    assert (day.credits_micros, day.top_ups_micros) == (1_000_000, 250_000)
    assert (day.charges_micros, day.reversals_micros) == (230_000, 60_000)
    for movement, ids in day.event_ids.items():
        total = sum(ledger[event_id]["amount_micros"] for event_id in ids)
        assert total == getattr(day, f"{movement}_micros")
    assert len(day.event_ids["charges"]) == 5


def test_a_job_links_its_cents_to_its_minutes(
    pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.run_with_a_crash()
    fold(BILLING_LEDGER)
    with pool.connection() as connection:
        (row,) = job_statement(connection, ACCOUNT_ID, "UTC", NOW.date(), NOW.date())
        ledger = {row["event_id"]: row for row in postings_of(connection, ACCOUNT_ID)}
    assert row.job_id == JOB_ID
    assert (row.segments, row.minutes, row.seconds, row.reversed_seconds) == (2, 5, 230, 60)
    assert (row.charges_micros, row.reversals_micros, row.net_micros) == (
        *(230_000, 60_000),
        170_000,
    )
    minutes = [ledger[event_id] for event_id in row.event_ids["charges"]]
    assert sum(each["to_seconds"] - each["from_seconds"] for each in minutes) == row.seconds
    assert sum(each["amount_micros"] for each in minutes) == row.charges_micros


def test_a_day_without_a_movement_opens_and_closes_with_the_same(
    pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.open_account(1000)
    fold(BILLING_LEDGER)
    with pool.connection() as connection:
        days = daily_statement(
            connection, ACCOUNT_ID, "UTC", NOW.date() - timedelta(1), NOW.date() + timedelta(1)
        )
        assert job_statement(connection, ACCOUNT_ID, "UTC", NOW.date(), NOW.date()) == []
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
    log: EventLog,
    pool: ConnectionPool[Connection],
    bill: Bill,
    fold: Fold,
    bills: list[tuple[int, int, int]],
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
    fold(BILLING_LEDGER)
    first, last = date(2026, 10, 19), date(2026, 11, 1)
    with pool.connection() as connection:
        days = daily_statement(connection, ACCOUNT_ID, BERLIN, first, last)
        jobs = job_statement(connection, ACCOUNT_ID, BERLIN, first, last)
    assert days[-1].closing_micros == log.load(Account, ACCOUNT_ID).balance_micros
    charged = sum(each.charges_micros - each.reversals_micros for each in days)
    assert sum(each.net_micros for each in jobs) == charged


def cells(lines: Iterable[str]) -> list[dict[str, Any]]:
    return list(csv.DictReader(io.StringIO("".join(lines), newline="")))


def test_the_ledger_as_csv_holds_every_posting(
    pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.run_with_a_crash()
    fold(BILLING_LEDGER)
    with pool.connection() as connection:
        postings = postings_of(connection, ACCOUNT_ID)
    rows = cells(ledger_csv(postings))
    assert [row["event_id"] for row in rows] == [row["event_id"] for row in postings]
    assert (rows[0]["amount"], rows[0]["amount_micros"]) == ("1.000000", "1000000")
    assert rows[0]["posted_at"] == NOW.isoformat()
    assert rows[0]["reference"] == "first"
    assert rows[0]["job_id"] == ""


@pytest.mark.parametrize("reference", ["=1+2", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1"])
def test_a_reference_never_becomes_a_formula(
    log: EventLog,
    pool: ConnectionPool[Connection],
    history: History,
    fold: Fold,
    reference: str,
) -> None:
    history.open_account(1000)
    with because(Cause("operator", "credit", NOW)):
        account = history.account
        # Triggered directly, because `grant_credit` refuses such a reference.
        account.trigger_event(Account.CreditGranted, amount_micros=1, reference=reference)
        log.commit(account)
    fold(BILLING_LEDGER)
    with pool.connection() as connection:
        (_, row) = cells(ledger_csv(postings_of(connection, ACCOUNT_ID)))
    assert row["reference"] == f"'{reference}"


def test_statements_as_csv_have_signs_and_both_units(
    pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.run_with_a_crash()
    fold(BILLING_LEDGER)
    with pool.connection() as connection:
        days = daily_statement(connection, ACCOUNT_ID, "UTC", NOW.date(), NOW.date())
        jobs = job_statement(connection, ACCOUNT_ID, "UTC", NOW.date(), NOW.date())
    (day,) = cells(daily_csv(days))
    assert (day["day"], day["closing"], day["closing_micros"]) == (
        *("2026-11-24", "0.830000"),
        "830000",
    )
    assert len(day["postings"].split()) == 1 + 5 + 1
    (row,) = cells(job_csv(jobs, {JOB_ID: ("support", "chats.jsonl", "tiny")}))
    assert (row["name"], row["dataset"], row["base_model"]) == ("support", "chats.jsonl", "tiny")
    (unnamed,) = cells(job_csv(jobs, {}))
    assert (unnamed["name"], unnamed["net"]) == ("", row["net"])
    assert (row["job_id"], row["net"], row["minutes"]) == (str(JOB_ID), "0.170000", "5")
    days[0].charges_micros = 2_000_000
    (day,) = cells(daily_csv(days))
    assert day["closing"] == "-0.940000", "a number is no formula"
