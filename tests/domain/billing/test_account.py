from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from domain.billing.account import Account
from domain.billing.payment import TEST_DAY_MICROS, TEST_PROVIDER, Payment, Receipt
from domain.core.errors import CommandReused, InsufficientBalance, Invalid
from tests.builders.examples import ACCOUNT_ID, JOB_ID, account
from tests.builders.scenario import AccountStep, fact, later, topics, when

DAY_SECONDS = timedelta(days=1).total_seconds()
SECOND_MICROS = 100


def grants(amount_micros: int, reference: str = "invoice-1") -> AccountStep:
    return lambda given: given.grant_credit(amount_micros, reference)


def settles(captured: int = 0, reserved: int = 0) -> AccountStep:
    return lambda given: given.settle(
        captured_micros=captured, reserved_micros=reserved, second_micros=SECOND_MICROS
    )


def payment(amount_micros: int, provider: str = "manual") -> Payment:
    receipt = Receipt(provider=provider, reference="INV-7", amount_micros=amount_micros)
    return Payment.receive(ACCOUNT_ID, receipt)


def pays(amount_micros: int, provider: str = "manual") -> AccountStep:
    return lambda given: given.top_up(payment(amount_micros, provider))


def watches(*runways: int | None) -> list[AccountStep]:
    return [lambda given, runway=each: given.watch_runway(runway, 900) for each in runways]


@pytest.mark.parametrize(
    ("given", "steps", "then", "balance"),
    [
        pytest.param(
            0,
            [grants(500), grants(500), grants(700, "invoice-2")],
            [
                fact("CreditGranted", amount_micros=500, reference="invoice-1"),
                fact("CreditGranted", amount_micros=700, reference="invoice-2"),
            ],
            (1200, 0),
            id="a credit counts once for each reference",
        ),
        pytest.param(
            0,
            [grants(500, " demo  credit "), grants(500, "demo credit")],
            [fact("CreditGranted", reference="demo credit")],
            (500, 0),
            id="white space does not make another reference",
        ),
        pytest.param(
            1000,
            [settles(reserved=600), settles(captured=250, reserved=100)],
            [
                fact("UsageSettled", captured_micros=0, reserved_micros=600),
                fact("UsageSettled", captured_micros=250, reserved_micros=100),
            ],
            (750, 450),
            id="a charge reduces the reserve and the balance",
        ),
        pytest.param(1000, [settles()], [], (1000, 0), id="nothing to settle is no event"),
        pytest.param(
            1000,
            [settles(reserved=1000), settles(captured=950), settles(reserved=-50)],
            [
                fact("UsageSettled", reserved_micros=1000),
                fact("UsageSettled", captured_micros=950),
                fact("BalanceDepleted", balance_micros=50),
                fact("UsageSettled", reserved_micros=-50),
            ],
            (50, 0),
            id="a balance below the price of a second is depleted once",
        ),
        pytest.param(
            1000,
            [lambda given: given.reverse_charge(40, JOB_ID, 1, 10, 50)],
            [
                fact(
                    "ChargeReversed",
                    amount_micros=40,
                    job_id=JOB_ID,
                    segment=1,
                    from_seconds=10,
                    to_seconds=50,
                )
            ],
            (1040, 0),
            id="a reversal names its segment and seconds",
        ),
        pytest.param(
            1000,
            [pays(500)],
            [fact("ToppedUp", amount_micros=500, provider="manual", reference="INV-7")],
            (1500, 0),
            id="a payment is added to the balance",
        ),
        pytest.param(
            0,
            [
                *(pays(TEST_DAY_MICROS, TEST_PROVIDER), pays(TEST_DAY_MICROS)),
                later(DAY_SECONDS, pays(TEST_DAY_MICROS, TEST_PROVIDER)),
            ],
            [fact("ToppedUp", amount_micros=TEST_DAY_MICROS)] * 3,
            (3 * TEST_DAY_MICROS, 0),
            id="test payments are limited by day, others are not",
        ),
    ],
)
def test_an_account_records(
    given: int, steps: list[AccountStep], then: list[fact], balance: tuple[int, int]
) -> None:
    account_ = account(given)
    assert when(account_, *steps) == then
    assert (account_.balance_micros, account_.reserved_micros) == balance
    assert account_.available_micros == balance[0] - balance[1]


@pytest.mark.parametrize(
    ("given", "refused", "error", "field"),
    [
        pytest.param([grants(500)], grants(600), CommandReused, "reference", id="another amount"),
        pytest.param([], grants(0), Invalid, "amount", id="a credit of nothing"),
        *[
            pytest.param([], grants(500, wrong), Invalid, "reference", id=f"reference {wrong!r}")
            for wrong in ("", " ", "a\x00b", "\ud800", "=1+2", "a@b.example", "x" * 101)
        ],
        pytest.param([], settles(reserved=1), InsufficientBalance, None, id="leases beyond it"),
        pytest.param(
            [pays(TEST_DAY_MICROS - 1, TEST_PROVIDER)],
            pays(2, TEST_PROVIDER),
            Invalid,
            "amount",
            id="test payments beyond the daily limit",
        ),
        pytest.param(
            [later(DAY_SECONDS, pays(TEST_DAY_MICROS, TEST_PROVIDER))],
            later(DAY_SECONDS, pays(1, TEST_PROVIDER)),
            Invalid,
            "amount",
            id="test payments beyond the limit of a day whose first event is a test payment",
        ),
    ],
)
def test_an_account_refuses(
    given: list[AccountStep], refused: AccountStep, error: Any, field: str | None
) -> None:
    account_ = account()
    when(account_, *given)
    with pytest.raises(error) as refusal:
        refused(account_)
    assert refusal.value.field == field
    assert account_.collect_events() == []


@pytest.mark.parametrize("step", [grants(10_000), pays(10_000)])
def test_new_money_ends_the_depletion(step: AccountStep) -> None:
    given = account(1000)
    when(given, settles(reserved=1000), settles(captured=1000))
    assert given.depleted
    when(given, step)
    assert not given.depleted


def test_a_stored_payment_is_not_added_again() -> None:
    given, stored = account(), payment(500)
    stored.collect_events()
    with pytest.raises(AssertionError):
        given.top_up(stored)


def test_a_low_balance_is_recorded_once_for_each_crossing() -> None:
    given = account(1000)
    assert when(given, *watches(900, 899, 500, 899)) == [fact("BalanceLow", runway_seconds=899)]
    when(given, pays(500))
    assert given.low, "until the runway is computed again"
    assert when(given, *watches(900, 2000, 10)) == [
        fact("BalanceRecovered", runway_seconds=900),
        fact("BalanceLow", runway_seconds=10),
    ]


def test_a_balance_that_nothing_uses_is_not_low() -> None:
    given = account(1000)
    assert when(given, *watches(10, None, None, 10, 20)) == [
        fact("BalanceLow"),
        fact("BalanceRecovered", runway_seconds=None),
        fact("BalanceLow"),
    ]


def test_a_snapshot_restores_the_account() -> None:
    given = account(1000)
    assert topics(when(given, settles(reserved=300), *watches(1)))[-1] == "BalanceLow"
    assert Account.Snapshot.take(given).mutate(None) == given
