"""Account: credits, leases, charges, and what may never happen to a balance."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from domain.billing.account import Account
from domain.billing.payment import TEST_DAY_MICROS, TEST_PROVIDER, Payment, Receipt
from domain.core.aggregate import because, current_cause
from domain.core.errors import CommandReused, InsufficientBalance, Invalid
from tests.builders.commands import NOW
from tests.builders.examples import ACCOUNT_ID, JOB_ID, account, happened

LOW_SECONDS = 900


def test_a_credit_counts_once_for_each_reference() -> None:
    given = account()
    given.grant_credit(500, "invoice-1")
    given.grant_credit(500, "invoice-1")
    given.grant_credit(500, "invoice-2")
    assert happened(given) == ["CreditGranted", "CreditGranted"]
    assert given.balance_micros == 1000


def test_a_reference_stands_for_one_amount() -> None:
    given = account()
    given.grant_credit(500, "invoice-1")
    with pytest.raises(CommandReused):
        given.grant_credit(600, "invoice-1")
    assert given.balance_micros == 500


def test_a_credit_of_nothing_is_refused() -> None:
    with pytest.raises(Invalid):
        account().grant_credit(0, "r")


@pytest.mark.parametrize(
    "reference", ["", " ", "a\x00b", "\ud800", "=1+2", "a@b.example", "x" * 101]
)
def test_a_credit_without_a_proper_reference_is_refused(reference: str) -> None:
    given = account()
    with pytest.raises(Invalid) as refusal:
        given.grant_credit(500, reference)
    assert refusal.value.field == "reference"
    assert happened(given) == []


def test_a_credit_with_other_spaces_in_its_reference_is_the_same_one() -> None:
    given = account()
    given.grant_credit(500, " demo  credit ")
    given.grant_credit(500, "demo credit")
    assert given.balance_micros == 500
    assert list(given.references) == ["demo credit"]


def test_leases_hold_a_part_of_the_balance() -> None:
    given = account(1000)
    given.settle(captured_micros=0, reserved_micros=600)
    assert happened(given) == ["UsageSettled"]
    assert (given.balance_micros, given.reserved_micros, given.available_micros) == (1000, 600, 400)


def test_leases_beyond_the_balance_are_refused() -> None:
    given = account(1000)
    with pytest.raises(InsufficientBalance):
        given.settle(captured_micros=0, reserved_micros=1001)
    assert happened(given) == []


def test_a_charge_leaves_the_reserve_and_the_balance() -> None:
    given = account(1000)
    given.settle(captured_micros=0, reserved_micros=600)
    given.settle(captured_micros=250, reserved_micros=100)
    assert (given.balance_micros, given.reserved_micros) == (750, 450)


def test_depletion_commits_with_the_charge_that_gets_there_and_once() -> None:
    given = account(1000)
    given.settle(captured_micros=0, reserved_micros=1000, second_micros=100)
    happened(given)
    given.settle(captured_micros=950, reserved_micros=0, second_micros=100)
    assert happened(given) == ["UsageSettled", "BalanceDepleted"]
    given.settle(captured_micros=0, reserved_micros=-50, second_micros=100)
    assert happened(given) == ["UsageSettled"]
    given.grant_credit(10_000, "more")
    assert not given.depleted


def test_nothing_to_settle_is_no_event() -> None:
    given = account(1000)
    given.settle(captured_micros=0, reserved_micros=0, second_micros=10)
    assert happened(given) == []


def test_a_reversal_gives_back_and_names_its_work() -> None:
    given = account(1000)
    given.reverse_charge(40, JOB_ID, segment=1, from_seconds=10, to_seconds=50)
    (event,) = given.collect_events()
    assert isinstance(event, Account.ChargeReversed)
    assert (event.job_id, event.from_seconds, event.to_seconds) == (JOB_ID, 10, 50)
    assert given.balance_micros == 1040


def test_a_payment_tops_the_balance_up() -> None:
    given = account(1000)
    given.settle(captured_micros=0, reserved_micros=1000, second_micros=100)
    given.settle(captured_micros=1000, reserved_micros=0, second_micros=100)
    happened(given)
    given.top_up(payment(500))
    assert happened(given) == ["ToppedUp"]
    assert given.balance_micros == 500
    assert not given.depleted


def test_test_payments_are_capped_for_each_day() -> None:
    given = account()
    with because(replace(current_cause(), now=NOW)):
        given.top_up(payment(TEST_DAY_MICROS - 1, TEST_PROVIDER))
        with pytest.raises(Invalid) as refusal:
            given.top_up(payment(2, TEST_PROVIDER))
        assert refusal.value.field == "amount"
        given.top_up(payment(TEST_DAY_MICROS))
        given.top_up(payment(1, TEST_PROVIDER))
    with because(replace(current_cause(), now=NOW + timedelta(days=1))):
        given.top_up(payment(TEST_DAY_MICROS, TEST_PROVIDER))
    assert given.balance_micros == 3 * TEST_DAY_MICROS


def test_a_payment_that_is_stored_already_tops_nothing_up() -> None:
    given, stored = account(), payment(500)
    stored.collect_events()
    with pytest.raises(AssertionError):
        given.top_up(stored)


def test_a_low_balance_is_said_once_for_each_crossing() -> None:
    given = account(1000)
    for runway in (900, 899, 500, 899):
        given.watch_runway(runway, LOW_SECONDS)
    (event,) = given.collect_events()
    assert isinstance(event, Account.BalanceLow)
    assert event.runway_seconds == 899
    for runway in (900, 2000, 10):
        given.watch_runway(runway, LOW_SECONDS)
    assert happened(given) == ["BalanceRecovered", "BalanceLow"]


def test_when_nothing_uses_it_up_a_balance_is_not_low_and_the_next_crossing_is_said() -> None:
    given = account(1000)
    for runway in (10, None, None, 10, 20):
        given.watch_runway(runway, LOW_SECONDS)
    low, recovered, again = given.collect_events()
    assert isinstance(low, Account.BalanceLow)
    assert isinstance(recovered, Account.BalanceRecovered)
    assert recovered.runway_seconds is None
    assert isinstance(again, Account.BalanceLow)


def test_a_top_up_alone_is_no_recovery_before_a_tick_saw_it() -> None:
    given = account()
    given.watch_runway(10, LOW_SECONDS)
    given.top_up(payment(500))
    assert given.low


def test_a_snapshot_is_the_account() -> None:
    given = account(1000)
    given.settle(captured_micros=0, reserved_micros=300)
    given.watch_runway(1, LOW_SECONDS)
    happened(given)
    assert Account.Snapshot.take(given).mutate(None) == given


def payment(amount_micros: int, provider: str = "manual") -> Payment:
    receipt = Receipt(provider=provider, reference="INV-7", amount_micros=amount_micros)
    return Payment.receive(ACCOUNT_ID, receipt)
