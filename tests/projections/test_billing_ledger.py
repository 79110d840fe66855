"""The ledger: one posting for each event that moves money, and nothing is lost on the way."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg_pool import ConnectionPool

from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.billing.payment import TEST_PROVIDER
from domain.core.event_log import EventLog
from infrastructure.store import Connection
from projections import BILLING_LEDGER
from projections.billing_ledger import PostingFilter, balances, balances_after, postings_of
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.builders.history import History
from tests.logs import notifications
from tests.projections.conftest import Fold

CUSTOMER, RESERVED = f"customer:{ACCOUNT_ID}", f"reserved:{ACCOUNT_ID}"


@pytest.fixture
def postings(
    pool: ConnectionPool[Connection], history: History, fold: Fold
) -> list[dict[str, Any]]:
    """All postings of a job that crashed once."""
    history.run_with_a_crash()
    fold(BILLING_LEDGER)
    with pool.connection() as connection:
        return postings_of(connection, ACCOUNT_ID)


def test_the_story_of_the_money(postings: list[dict[str, Any]]) -> None:
    moved = {(row["debit"], row["credit"], row["amount_micros"], row["reason"]) for row in postings}
    assert moved == {
        ("credits", CUSTOMER, 1_000_000, "credit granted"),
        (CUSTOMER, RESERVED, 300_000, "lease reserved"),
        (RESERVED, "revenue", 60_000, "minute metered"),
        (RESERVED, "revenue", 40_000, "minute metered"),
        (RESERVED, CUSTOMER, 200_000, "lease released"),
        ("revenue", CUSTOMER, 60_000, "lost work credited"),
        (RESERVED, "revenue", 10_000, "minute metered"),
        (RESERVED, CUSTOMER, 170_000, "lease released"),
    }


def test_every_event_that_moves_money_has_one_posting_and_no_other_has(
    log: EventLog, postings: list[dict[str, Any]]
) -> None:
    events = [log.mapper.to_domain_event(each) for each in notifications(log)]
    money = {
        event.event_id
        for event in events
        if isinstance(event, (Account.CreditGranted, Account.ChargeReversed, Meter.MinuteMetered))
        or (isinstance(event, Account.UsageSettled) and event.reserved_micros)
    }
    assert sorted(row["event_id"] for row in postings) == sorted(money)


def test_amounts_are_positive_and_the_trial_balance_is_zero(
    pool: ConnectionPool[Connection], postings: list[dict[str, Any]]
) -> None:
    assert all(row["amount_micros"] > 0 for row in postings)
    with pool.connection() as connection:
        assert sum(balances(connection).values()) == 0


def test_the_ledger_holds_what_the_account_holds(
    pool: ConnectionPool[Connection], history: History, postings: list[dict[str, Any]]
) -> None:
    assert postings
    with pool.connection() as connection:
        ledger = balances(connection)
    assert ledger[CUSTOMER] == history.account.available_micros
    assert ledger.get(RESERVED, 0) == history.account.reserved_micros == 0
    assert ledger["revenue"] == (40 + 130) * 1000, "100 s less 60 s credited, then 130 s"


def test_money_that_was_paid_in_comes_from_cash_and_says_its_reference(
    pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.open_account(1000)
    history.top_up(500, "INV-7")
    fold(BILLING_LEDGER)
    with pool.connection() as connection:
        credit, top_up = postings_of(connection, ACCOUNT_ID)
        assert balances(connection) == {"cash": -500, "credits": -1000, CUSTOMER: 1500}
    assert (credit["debit"], credit["reference"]) == ("credits", "first")
    assert (top_up["debit"], top_up["credit"]) == ("cash", CUSTOMER)
    assert (top_up["amount_micros"], top_up["reference"]) == (500, "INV-7")


def test_test_money_never_counts_as_cash(
    pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.open_account(1000)
    history.top_up(500, "test payment 7", TEST_PROVIDER)
    fold(BILLING_LEDGER)
    with pool.connection() as connection:
        assert balances(connection) == {"credits": -1000, "test money": -500, CUSTOMER: 1500}
        assert balances_after(connection, ACCOUNT_ID, [2]) == {2: 1500}


def test_pages_neither_miss_nor_repeat_a_posting(
    pool: ConnectionPool[Connection], postings: list[dict[str, Any]]
) -> None:
    pages, after = list[list[dict[str, Any]]](), 0
    with pool.connection() as connection:
        while page := postings_of(connection, ACCOUNT_ID, after=after, limit=2):
            pages.append(page)
            after = page[-1]["position"]
        (first,) = postings_of(connection, ACCOUNT_ID, PostingFilter(job_id=JOB_ID), limit=1)
        of_job = postings_of(
            connection, ACCOUNT_ID, PostingFilter(job_id=JOB_ID), after=first["position"]
        )
    assert [row for page in pages for row in page] == postings
    assert {len(page) for page in pages[:-1]} == {2}
    assert [first, *of_job] == [row for row in postings if row["job_id"] == JOB_ID]


def test_minutes_name_their_work(postings: list[dict[str, Any]]) -> None:
    minutes = [row for row in postings if row["reason"] == "minute metered"]
    assert sorted(
        (row["segment"], row["minute"], row["from_seconds"], row["to_seconds"]) for row in minutes
    ) == [(1, 1, 0, 60), (1, 2, 60, 100), (2, 1, 0, 60), (2, 2, 60, 120), (2, 3, 120, 130)]
    assert {row["job_id"] for row in minutes} == {JOB_ID}


def test_a_reversal_names_what_it_gives_back(
    pool: ConnectionPool[Connection], postings: list[dict[str, Any]]
) -> None:
    (reversal,) = [row for row in postings if row["debit"] == "revenue"]
    assert (reversal["job_id"], reversal["segment"]) == (JOB_ID, 1)
    assert (reversal["from_seconds"], reversal["to_seconds"]) == (40, 100)
    with pool.connection() as connection:
        assert reversal in postings_of(connection, ACCOUNT_ID, PostingFilter(job_id=JOB_ID))


def test_the_balance_runs_along_with_the_postings(
    pool: ConnectionPool[Connection], history: History, postings: list[dict[str, Any]]
) -> None:
    last = postings[-1]["position"]
    with pool.connection() as connection:
        running = balances_after(connection, ACCOUNT_ID, [1, last])
        assert balances_after(connection, ACCOUNT_ID, []) == {}
    assert running == {1: 1_000_000, last: history.account.balance_micros}
