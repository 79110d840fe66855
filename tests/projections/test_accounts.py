"""Rows of accounts, which equal their aggregates."""

from __future__ import annotations

from domain.billing.suspension import SuspensionReason
from infrastructure.postgres.store import Connection
from projections import ACCOUNTS
from projections.accounts import account
from tests.builders.commands import NOW
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.builders.history import History
from tests.projections.conftest import Fold


def test_a_row_has_the_state_of_the_aggregate(history: History, fold: Fold) -> None:
    history.run_with_a_crash()
    history.top_up(500, "INV-7")
    assert account(fold(ACCOUNTS), ACCOUNT_ID) == {
        "account_id": ACCOUNT_ID,
        "role": "owner",
        "currency": "USD",
        "time_zone": "UTC",
        "balance_micros": history.account.balance_micros,
        "reserved_micros": history.account.reserved_micros,
        "depleted": False,
        "low": False,
        "runway_seconds": None,
        "opened_at": NOW,
        "suspension": None,
        "erased": False,
    }


def test_an_account_is_suspended_until_it_is_reinstated(history: History, fold: Fold) -> None:
    def suspension() -> str | None:
        row = account(fold(ACCOUNTS), ACCOUNT_ID)
        assert row is not None
        return row["suspension"]

    history.open_account(1000)
    history.suspend(SuspensionReason.ABUSE)
    assert suspension() == "abuse"
    history.suspend(SuspensionReason.PAYMENT)
    assert suspension() == "payment"
    history.reinstate()
    assert suspension() is None


def test_an_account_is_depleted_until_it_gets_a_credit(history: History, fold: Fold) -> None:
    def depleted() -> bool:
        row = account(fold(ACCOUNTS), ACCOUNT_ID)
        assert row is not None
        assert row["depleted"] == history.account.depleted
        return row["depleted"]

    history.open_account(1000)
    with history.changing_account() as spending:
        spending.settle(captured_micros=950, reserved_micros=950, second_micros=100)
    assert depleted()
    with history.changing_account() as credited:
        credited.reverse_charge(950, JOB_ID, 1, 0, 10)
    assert not depleted()


def test_a_low_account_has_the_runway_of_its_warning(history: History, fold: Fold) -> None:
    def warning(runway_seconds: int | None) -> tuple[bool, int | None]:
        with history.changing_account() as watched:
            watched.watch_runway(runway_seconds, 900)
        row = account(fold(ACCOUNTS), ACCOUNT_ID)
        assert row is not None
        return row["low"], row["runway_seconds"]

    history.open_account(1000)
    assert warning(900) == (False, None)
    assert warning(899) == (True, 899)
    assert warning(500) == (True, 899)
    assert warning(901) == (False, None)
    assert warning(10) == (True, 10)
    assert warning(None) == (False, None)


def test_an_unknown_account_has_no_row(connection: Connection) -> None:
    assert account(connection, ACCOUNT_ID) is None
