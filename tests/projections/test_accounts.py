"""Accounts as rows are accounts as aggregates."""

from __future__ import annotations

from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from infrastructure.store import Connection
from projections import ACCOUNTS
from projections.accounts import account, all_accounts
from tests.builders.commands import NOW, command
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.builders.history import History
from tests.projections.conftest import Fold


def test_a_row_holds_what_the_aggregate_holds(
    pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.run_with_a_crash()
    fold(ACCOUNTS)
    expected = history.account
    with pool.connection() as connection:
        assert account(connection, ACCOUNT_ID) == {
            "account_id": ACCOUNT_ID,
            "role": "user",
            "currency": "USD",
            "time_zone": "UTC",
            "balance_micros": expected.balance_micros,
            "reserved_micros": expected.reserved_micros,
            "depleted": False,
            "low": False,
            "runway_seconds": None,
            "opened_at": NOW,
        }


def test_an_account_is_depleted_until_there_is_money_again(
    log: EventLog, pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.open_account(1000)

    def depleted() -> bool:
        fold(ACCOUNTS)
        with pool.connection() as connection:
            (row,) = all_accounts(connection)
        assert row["depleted"] == history.account.depleted
        return row["depleted"]

    with command("spend"):
        spent = history.account
        spent.settle(captured_micros=950, reserved_micros=950, second_micros=100)
        log.commit(spent)
    assert depleted()
    with command("credit"):
        credited = history.account
        credited.reverse_charge(950, JOB_ID, 1, 0, 10)
        log.commit(credited)
    assert not depleted()


def test_an_account_is_low_with_the_runway_that_it_was_warned_of(
    log: EventLog, pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.open_account(1000)

    def warning(runway_seconds: int | None) -> tuple[bool, int | None]:
        with command(f"watch {runway_seconds}"):
            watched = history.account
            watched.watch_runway(runway_seconds, 900)
            log.commit(watched)
        fold(ACCOUNTS)
        with pool.connection() as connection:
            (row,) = all_accounts(connection)
        return row["low"], row["runway_seconds"]

    assert warning(900) == (False, None)
    assert warning(899) == (True, 899)
    assert warning(500) == (True, 899)
    assert warning(901) == (False, None)
    assert warning(10) == (True, 10)
    assert warning(None) == (False, None)


def test_a_top_up_is_in_the_balance(
    log: EventLog, pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.open_account(1000)
    history.top_up(500, "INV-7")
    fold(ACCOUNTS)
    with pool.connection() as connection:
        (row,) = all_accounts(connection)
    assert row["balance_micros"] == history.account.balance_micros == 1500


def test_another_account_has_no_row_here(pool: ConnectionPool[Connection]) -> None:
    with pool.connection() as connection:
        assert account(connection, ACCOUNT_ID) is None
