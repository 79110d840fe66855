"""Card payments: states, bounds, and repeated commands."""

from __future__ import annotations

from uuid import UUID

import pytest

from domain.billing.card_payment import (
    CARD_MAX_MICROS,
    CARD_MIN_MICROS,
    CardFailure,
    CardPayment,
    CardPaymentStatus,
)
from domain.core.errors import CommandReused, Invalid
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID

PAYMENT_ID = UUID("55555555-5555-5555-8555-555555555555")


def started(amount_micros: int = 25_000_000) -> CardPayment:
    return CardPayment.start(PAYMENT_ID, ACCOUNT_ID, amount_micros)


def topics(payment: CardPayment) -> list[str]:
    return [type(each).__name__ for each in payment.collect_events()]


def test_a_payment_is_paid_once() -> None:
    with command():
        payment = started()
        payment.open_checkout("cs_1")
        payment.open_checkout("cs_2")
        payment.confirm("pi_1")
        payment.confirm("pi_1")
        payment.fail(CardFailure.EXPIRED)
    assert topics(payment) == ["CardPaymentStarted", "CheckoutOpened", "CardPaymentConfirmed"]
    assert (payment.checkout, payment.reference) == ("cs_1", "pi_1")
    assert payment.status is CardPaymentStatus.PAID


def test_money_that_arrives_after_a_failure_counts() -> None:
    with command():
        payment = started()
        payment.fail(CardFailure.EXPIRED)
        payment.fail(CardFailure.DECLINED)
        assert payment.failure is CardFailure.EXPIRED
        payment.confirm("pi_1")
    assert (payment.status, payment.failure) == (CardPaymentStatus.PAID, None)


@pytest.mark.parametrize("amount_micros", [0, -1, CARD_MIN_MICROS - 1, CARD_MAX_MICROS + 1])
def test_an_amount_that_the_provider_refuses_is_refused(amount_micros: int) -> None:
    with command(), pytest.raises(Invalid) as refusal:
        started(amount_micros)
    assert refusal.value.field == "amount"


def test_a_repeated_request_must_ask_for_the_same_payment() -> None:
    with command():
        payment = started()
    payment.require_same(25_000_000, saves_card=False)
    for amount_micros, saves_card in ((24_000_000, False), (25_000_000, True)):
        with pytest.raises(CommandReused):
            payment.require_same(amount_micros, saves_card=saves_card)
