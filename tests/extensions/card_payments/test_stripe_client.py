"""Charges of saved cards: EcoLink acts on the current state at Stripe, not on a repeated answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
import stripe

from domain.billing.auto_top_up import SavedCard
from domain.billing.card_payment import CardPayment
from domain.core.aggregate import because
from extensions.card_payments.stripe_client import StripeProvider
from extensions.card_payments.stripe_provider import (
    PAYMENT_FIELD,
    ChargeStatus,
)
from infrastructure.payments.provider import ProviderUnavailable
from tests.builders.commands import command

CARD = SavedCard(customer="cus_1", payment_method="pm_1")


class Intents:
    """PaymentIntents of one payment: the first, repeated answer, and the current state."""

    def __init__(self, payment: CardPayment, first: str | Exception, current: str) -> None:
        self.payment, self.first, self.status = payment, first, current
        self.problem: dict[str, str] | None = None
        self.cancel_error: stripe.StripeError | None = None
        self.canceled = 0

    def create(self, *_: object) -> stripe.PaymentIntent:
        if isinstance(self.first, Exception):
            raise self.first
        return self._intent(self.first)

    def retrieve(self, _: str) -> stripe.PaymentIntent:
        return self._intent(self.status)

    def list(self, _: object) -> SimpleNamespace:
        return SimpleNamespace(auto_paging_iter=lambda: iter([self._intent(self.status)]))

    def cancel(self, _: str) -> stripe.PaymentIntent:
        self.canceled += 1
        if self.cancel_error is not None:
            self.status = "succeeded"
            raise self.cancel_error
        self.status = "canceled"
        return self._intent(self.status)

    def charge(self) -> ChargeStatus:
        client: Any = SimpleNamespace(v1=SimpleNamespace(payment_intents=self))
        return StripeProvider(client).charge(self.payment, CARD).status

    def _intent(self, status: str) -> stripe.PaymentIntent:
        fields = {
            "id": "pi_1",
            "object": "payment_intent",
            "amount": 2500,
            "currency": "usd",
            "status": status,
            "last_payment_error": self.problem,
            "metadata": {PAYMENT_FIELD: str(self.payment.id)},
        }
        return cast(stripe.PaymentIntent, stripe.PaymentIntent.construct_from(fields, None))


@pytest.fixture
def payment() -> CardPayment:
    with command() as cause, because(cause):
        return CardPayment.start(uuid4(), uuid4(), 25_000_000, automatic=True)


@pytest.mark.parametrize(
    ("first", "current", "answer"),
    [
        ("succeeded", "succeeded", ChargeStatus.PAID),
        ("processing", "processing", ChargeStatus.PENDING),
        ("processing", "succeeded", ChargeStatus.PAID),
        ("requires_action", "canceled", ChargeStatus.AUTHENTICATION_REQUIRED),
        ("requires_action", "succeeded", ChargeStatus.PAID),
    ],
)
def test_a_repeated_answer_is_replaced_by_the_current_state(
    payment: CardPayment, first: str, current: str, answer: ChargeStatus
) -> None:
    intents = Intents(payment, first, current)
    assert intents.charge() is answer
    assert intents.canceled == 0


def test_a_charge_that_needs_an_approval_is_canceled(payment: CardPayment) -> None:
    error = stripe.CardError("no", None, "authentication_required", http_status=402)
    for first in ("requires_action", error):
        intents = Intents(payment, first, "requires_payment_method")
        intents.problem = {"code": "authentication_required"} if first is error else None
        assert intents.charge() is ChargeStatus.AUTHENTICATION_REQUIRED
        assert (intents.status, intents.canceled) == ("canceled", 1)


def test_a_declined_charge_is_canceled(payment: CardPayment) -> None:
    error = stripe.CardError("no", None, "card_declined", http_status=402)
    intents = Intents(payment, error, "requires_payment_method")
    intents.problem = {"code": "card_declined"}
    assert intents.charge() is ChargeStatus.DECLINED
    assert intents.canceled == 1


def test_a_charge_that_succeeds_before_it_is_canceled_is_paid(payment: CardPayment) -> None:
    intents = Intents(payment, "requires_action", "requires_action")
    intents.cancel_error = stripe.InvalidRequestError("too late", None)
    assert intents.charge() is ChargeStatus.PAID


def test_a_repeated_error_of_stripe_does_not_hide_a_charge(payment: CardPayment) -> None:
    stored = stripe.APIError("stored", http_status=500)
    assert Intents(payment, stored, "succeeded").charge() is ChargeStatus.PAID
    with pytest.raises(ProviderUnavailable):
        Intents(payment, stripe.APIConnectionError("down"), "succeeded").charge()
