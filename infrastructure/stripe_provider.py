"""Stripe as a payment provider: checkout pages, charges of saved cards, and signed webhooks.

EcoLink stores only Stripe's IDs. Error messages of Stripe can contain parts of a key or of a card,
so errors and logs here contain only Stripe's error type and code.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar
from uuid import UUID

import stripe
from pydantic import BaseModel, ValidationError

from domain.billing.card_payment import CardPayment
from domain.billing.payment import STRIPE_PROVIDER, Receipt
from domain.billing.reference import reference_of
from domain.core.errors import DomainError, Invalid
from domain.core.money import CENT_MICROS, dollars
from infrastructure.settings import Settings

CURRENCY = "usd"
TIMEOUT_SECONDS = 20.0
NETWORK_RETRIES = 2
"""Retries of the library for lost connections. All requests that change anything have a key."""

TOLERANCE_SECONDS = 300
"""Age in seconds up to which a signature of a webhook is valid."""

PAYMENT_FIELD = "ecolink_payment"
"""Name of the metadata field with the ID of our payment."""

PRODUCT = "EcoLink balance"

log = logging.getLogger("stripe_provider")
logging.getLogger("stripe").setLevel(logging.WARNING)  # it logs two lines for each request

T = TypeVar("T")


class ProviderUnavailable(DomainError):
    """Stripe does not respond, or rejects EcoLink's request."""

    code = "payment_provider_unavailable"

    def __init__(self) -> None:
        super().__init__(
            "The payment provider is unavailable. You were not charged. Try again in a minute."
        )


class InvalidSignature(Invalid):
    """A webhook is not from Stripe, or it is too old."""

    code = "invalid_signature"


class CheckoutStatus(StrEnum):
    """States of a checkout page."""

    OPEN = "open"
    PAID = "paid"
    EXPIRED = "expired"
    MISMATCH = "mismatch"
    """The amount, the currency or the payment differs from ours."""


@dataclass(frozen=True)
class Checkout:
    """A checkout page at Stripe. `receipt` is set once it is paid."""

    id: str
    url: str | None
    status: CheckoutStatus
    receipt: Receipt | None = None


class _Object(BaseModel):
    """The fields of an object in a webhook that EcoLink reads."""

    id: str
    object: str
    client_reference_id: str | None = None
    metadata: dict[str, str] | None = None


class _Data(BaseModel):
    object: _Object


class WebhookEvent(BaseModel):
    """A verified event of Stripe. EcoLink reads the current state of its object from Stripe."""

    id: str
    type: str
    data: _Data

    @property
    def payment_id(self) -> UUID | None:
        """ID of our payment, or None for an object that EcoLink did not create."""
        about = self.data.object
        named = (about.metadata or {}).get(PAYMENT_FIELD) or about.client_reference_id
        try:
            return UUID(named) if named else None
        except ValueError:
            return None


@dataclass(frozen=True)
class StripeProvider:
    """Payments by Stripe. The reference of a payment is the ID of its PaymentIntent."""

    client: stripe.StripeClient

    @property
    def name(self) -> str:
        """Name of the provider in events."""
        return STRIPE_PROVIDER

    def receipt(self, reference: str, amount_micros: int) -> Receipt:
        """Return the receipt of a successful PaymentIntent.

        Raise Invalid if it does not exist, did not succeed or has another amount.
        """
        reference = reference_of(reference)
        if not reference.startswith("pi_"):
            raise Invalid(
                f"{reference!r} is no payment of Stripe. Enter the ID of a PaymentIntent, such as "
                "pi_3Abc.",
                field="reference",
            )
        try:
            intent = self.client.v1.payment_intents.retrieve(reference)
        except stripe.InvalidRequestError as error:
            raise Invalid(
                f"Stripe has no payment {reference!r}. Check the reference.", field="reference"
            ) from error
        except stripe.StripeError as error:
            raise _unavailable(error) from None
        paid = _micros(intent.amount)
        if intent.status != "succeeded" or intent.currency != CURRENCY or paid != amount_micros:
            raise Invalid(
                f"The payment {reference} is {dollars(paid)} in {intent.currency.upper()} and "
                f"{intent.status}, not a successful payment of {dollars(amount_micros)}.",
                field="amount",
            )
        return Receipt(provider=self.name, reference=reference, amount_micros=amount_micros)

    def open_checkout(self, payment: CardPayment, success_url: str, cancel_url: str) -> Checkout:
        """Open the checkout page of a payment, or return the page that is already open.

        The ID of the payment is the idempotency key, so a repeated request opens no second page.
        Raise ProviderUnavailable.
        """
        if payment.checkout is not None:
            return self.checkout(payment)
        named = str(payment.id)
        params: dict[str, Any] = {
            "mode": "payment",
            "payment_method_types": ["card"],
            "line_items": [
                {
                    "quantity": 1,
                    "price_data": {
                        "currency": CURRENCY,
                        "unit_amount": _cents(payment.amount_micros),
                        "product_data": {"name": PRODUCT},
                    },
                }
            ],
            "client_reference_id": named,
            "metadata": {PAYMENT_FIELD: named},
            "payment_intent_data": {"metadata": {PAYMENT_FIELD: named}},
            "success_url": success_url,
            "cancel_url": cancel_url,
        }
        options: stripe.RequestOptions = {"idempotency_key": f"checkout-{named}"}
        session = _called(lambda: self.client.v1.checkout.sessions.create(params, options))  # type: ignore[arg-type]
        return _checkout(session, payment)

    def checkout(self, payment: CardPayment) -> Checkout:
        """Return the current state of a payment's checkout page. Raise ProviderUnavailable."""
        checkout = payment.checkout
        assert checkout is not None
        session = _called(lambda: self.client.v1.checkout.sessions.retrieve(checkout))
        return _checkout(session, payment)


def stripe_provider(settings: Settings) -> StripeProvider | None:
    """Return the provider, or None if no secret key is set."""
    key = settings.stripe_secret_key
    return None if key is None else _provider(key, settings.stripe_api_base)


@cache
def _provider(key: str, api_base: str | None) -> StripeProvider:
    client = stripe.StripeClient(
        key,
        base_addresses={"api": api_base} if api_base else {},
        max_network_retries=NETWORK_RETRIES,
        http_client=stripe.RequestsClient(timeout=TIMEOUT_SECONDS),
    )
    return StripeProvider(client)


def verified_event(body: bytes, signature: str | None, secret: str) -> WebhookEvent:
    """Return the event in the body of a webhook. Raise InvalidSignature, or Invalid."""
    try:
        text = body.decode()
        stripe.WebhookSignature.verify_header(text, signature, secret, TOLERANCE_SECONDS)
    except (ValueError, stripe.SignatureVerificationError):
        raise InvalidSignature(
            "The signature is missing, wrong or older than five minutes. Check the signing secret "
            "of the webhook in Stripe's dashboard, and the clock of this machine."
        ) from None
    try:
        return WebhookEvent.model_validate_json(text)
    except ValidationError:
        raise Invalid("The body is no event of Stripe.") from None


def _called(call: Callable[[], T]) -> T:
    try:
        return call()
    except stripe.StripeError as error:
        raise _unavailable(error) from None


def _unavailable(error: stripe.StripeError) -> ProviderUnavailable:
    log.error(
        "a request to Stripe failed: %s, status %s, code %s, request %s",
        *(type(error).__name__, error.http_status, error.code, error.request_id),
    )
    return ProviderUnavailable()


def _checkout(session: stripe.checkout.Session, payment: CardPayment) -> Checkout:
    url = session.url
    if session.status == "expired":
        return Checkout(session.id, url, CheckoutStatus.EXPIRED)
    if session.payment_status != "paid":
        return Checkout(session.id, url, CheckoutStatus.OPEN)
    same = (
        session.client_reference_id == str(payment.id)
        and session.currency == CURRENCY
        and session.amount_total == _cents(payment.amount_micros)
    )
    intent = session.payment_intent
    reference = intent if isinstance(intent, str) or intent is None else intent.id
    if not same or reference is None:
        log.error(
            "checkout %s of payment %s has another amount, currency or reference; EcoLink did not "
            "add it to a balance",
            *(session.id, payment.id),
        )
        return Checkout(session.id, url, CheckoutStatus.MISMATCH)
    receipt = Receipt(
        provider=STRIPE_PROVIDER, reference=reference, amount_micros=payment.amount_micros
    )
    return Checkout(session.id, url, CheckoutStatus.PAID, receipt)


def _cents(micros: int) -> int:
    assert micros % CENT_MICROS == 0
    return micros // CENT_MICROS


def _micros(cents: int) -> int:
    return cents * CENT_MICROS
