"""The ledger: one posting for each event that moves money."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.billing.payment import TEST_PROVIDER
from domain.core.event_log import EventLog
from infrastructure.postgres.store import Connection
from projections import BILLING_LEDGER
from projections.billing_ledger import (
    PostingFilter,
    balances,
    balances_after,
    platform_days,
    postings_of,
)
from tests.builders.commands import NOW
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.builders.history import History
from tests.logs import notifications
from tests.projections.conftest import Fold

CUSTOMER, RESERVED = f"customer:{ACCOUNT_ID}", f"reserved:{ACCOUNT_ID}"


@pytest.fixture
def postings(history: History, fold: Fold) -> list[dict[str, Any]]:
    """Return all postings of a job that crashed once."""
    history.run_with_a_crash()
    return postings_of(fold(BILLING_LEDGER), ACCOUNT_ID)


def test_postings_move_money_between_ledger_accounts(postings: list[dict[str, Any]]) -> None:
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


def test_only_events_that_move_money_have_a_posting(
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


def test_the_ledger_agrees_with_the_account(
    connection: Connection, history: History, postings: list[dict[str, Any]]
) -> None:
    ledger = balances(connection)
    assert sum(ledger.values()) == 0
    assert ledger[CUSTOMER] == history.account.available_micros
    assert ledger.get(RESERVED, 0) == history.account.reserved_micros == 0
    assert ledger["revenue"] == (40 + 130) * 1000  # of 100 s, 60 s are credited; then 130 s
    last = postings[-1]["position"]
    assert balances_after(connection, ACCOUNT_ID, [1, last]) == {
        1: 1_000_000,
        last: history.account.balance_micros,
    }
    assert balances_after(connection, ACCOUNT_ID, []) == {}


def test_each_day_has_the_sums_of_its_postings(
    connection: Connection, history: History, postings: list[dict[str, Any]]
) -> None:
    del postings  # only fills the ledger
    day = NOW.date()
    before, sums = platform_days(connection, day - timedelta(days=1), day)
    assert set(before.values()) == {day - timedelta(days=1), 0}
    assert sums == {
        "day": day,
        "payments": 0,
        "test_payments": 0,
        "credits": 1_000_000,
        "charges": 230_000,
        "covered": 0,
        "reversals": 60_000,
        "returns": 0,
        "losses": 0,
    }


@pytest.mark.parametrize(
    ("provider", "reference", "source"),
    [("manual", "INV-7", "cash"), (TEST_PROVIDER, "test payment 7", "test money")],
)
def test_a_payment_has_its_reference_and_test_money_is_not_cash(
    history: History, fold: Fold, provider: str, reference: str, source: str
) -> None:
    history.open_account(1000)
    history.top_up(500, reference, provider)
    connection = fold(BILLING_LEDGER)
    credit, top_up = postings_of(connection, ACCOUNT_ID)
    assert (credit["debit"], credit["reference"]) == ("credits", "first")
    assert (top_up["debit"], top_up["credit"]) == (source, CUSTOMER)
    assert (top_up["amount_micros"], top_up["reference"]) == (500, reference)
    assert balances(connection) == {"credits": -1000, source: -500, CUSTOMER: 1500}


def test_pages_neither_omit_nor_repeat_a_posting(
    connection: Connection, postings: list[dict[str, Any]]
) -> None:
    pages, after = list[list[dict[str, Any]]](), 0
    while page := postings_of(connection, ACCOUNT_ID, after=after, limit=2):
        pages.append(page)
        after = page[-1]["position"]
    assert [row for page in pages for row in page] == postings
    assert {len(page) for page in pages[:-1]} == {2}


def test_a_filter_selects_the_postings_of_a_job(
    connection: Connection, postings: list[dict[str, Any]]
) -> None:
    of_job = PostingFilter(job_id=JOB_ID)
    (first,) = postings_of(connection, ACCOUNT_ID, of_job, limit=1)
    rest = postings_of(connection, ACCOUNT_ID, of_job, after=first["position"])
    assert [first, *rest] == [row for row in postings if row["job_id"] == JOB_ID]


def test_minutes_and_reversals_have_their_segment_and_seconds(
    postings: list[dict[str, Any]],
) -> None:
    def work(reason: str) -> list[tuple[int, int, int, int]]:
        fields = ("segment", "minute", "from_seconds", "to_seconds")
        found = [row for row in postings if row["reason"] == reason]
        assert {row["job_id"] for row in found} == {JOB_ID}
        return sorted(tuple(row[name] for name in fields) for row in found)

    assert work("minute metered") == [
        *((1, 1, 0, 60), (1, 2, 60, 100)),
        *((2, 1, 0, 60), (2, 2, 60, 120), (2, 3, 120, 130)),
    ]
    assert work("lost work credited") == [(1, None, 40, 100)]


def test_the_platform_bears_what_a_guarantee_covers(history: History, fold: Fold) -> None:
    history.run_covered(250)
    connection = fold(BILLING_LEDGER)
    minutes = [each for each in postings_of(connection, ACCOUNT_ID) if each["minute"]]
    assert [(each["debit"], each["amount_micros"]) for each in minutes] == [
        *((RESERVED, 60_000), (RESERVED, 60_000), (RESERVED, 36_000)),
        *(("guarantee", 60_000), ("guarantee", 24_000), ("guarantee", 10_000)),
    ]
    ledger = balances(connection)
    assert (ledger["revenue"], ledger["guarantee"]) == (250_000, -94_000)
    assert (ledger[CUSTOMER], sum(ledger.values())) == (0, 0)
    (day,) = platform_days(connection, NOW.date(), NOW.date())
    assert (day["charges"], day["covered"]) == (156_000, 94_000)
