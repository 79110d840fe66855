"""Stripe as a payment provider: the states that it reports, its errors and signed webhooks.

EcoLink stores only Stripe's IDs. Error messages of Stripe can contain parts of a key or of a card,
so errors and logs contain only Stripe's error type and code.

Most installations have no payments by card, and the package `stripe` takes a tenth of the time of a
start. So the functions of this module import it when they need it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING
from uuid import UUID

from pydantic import BaseModel, ValidationError

from domain.billing.auto_top_up import SavedCard
from domain.billing.payment import Receipt
from domain.core.errors import Invalid
from extensions.card_payments.settings import CardSettings
from infrastructure.payments.provider import ProviderDisabled
from infrastructure.process.role import settings_of

if TYPE_CHECKING:
    from extensions.card_payments.stripe_client import StripeProvider

TOLERANCE_SECONDS = 300
"""Age in seconds up to which a signature of a webhook is valid."""

STRIPE_DISABLED = "Payments by Stripe are disabled. Set ECOLINK_STRIPE_SECRET_KEY to enable them."

PAYMENT_FIELD = "ecolink_payment"
"""Name of the metadata field with the ID of our payment."""


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
    card: SavedCard | None = None
    """The card that the customer saved."""


class ChargeStatus(StrEnum):
    """Answers to the charge of a saved card."""

    PAID = "paid"
    PENDING = "pending"
    DECLINED = "declined"
    AUTHENTICATION_REQUIRED = "authentication_required"
    MISMATCH = "mismatch"


@dataclass(frozen=True)
class ChargeResponse:
    """The provider's answer to a charge. `receipt` is set once it is paid."""

    status: ChargeStatus
    receipt: Receipt | None = None


class DisputeStatus(StrEnum):
    """States of a dispute that matter for the balance."""

    NONE = "none"
    """The bank only asks. It took no money."""
    OPEN = "open"
    WON = "won"
    LOST = "lost"


@dataclass(frozen=True)
class Dispute:
    """A dispute at Stripe. `reference` is that of the payment."""

    id: str
    reference: str
    amount_micros: int
    status: DisputeStatus


@dataclass(frozen=True)
class Refund:
    """A refund at Stripe. `return_id` is EcoLink's ID, or Stripe's for one of the dashboard."""

    return_id: str
    amount_micros: int
    failed: bool


class _Object(BaseModel):
    """The fields of an object in a webhook that EcoLink reads."""

    id: str
    object: str
    client_reference_id: str | None = None
    payment_intent: str | None = None
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

    @property
    def dispute_id(self) -> str | None:
        """ID of the dispute that the event is about, if it is."""
        return self.data.object.id if self.data.object.object == "dispute" else None

    @property
    def refunded_reference(self) -> str | None:
        """Reference of the payment of which a refund changed, if one did."""
        about = self.data.object
        return about.payment_intent if about.object == "refund" else None


def stripe_provider() -> StripeProvider | None:
    """Return the provider, or None if no secret key is set."""
    own = settings_of(CardSettings)
    if own.stripe_secret_key is None:
        return None
    from extensions.card_payments.stripe_client import (
        provider_of,  # see the docstring of this module
    )

    return provider_of(own.stripe_secret_key, own.stripe_api_base)


def enabled_provider() -> StripeProvider:
    """Return the provider. Raise ProviderDisabled if no secret key is set."""
    provider = stripe_provider()
    if provider is None:
        raise ProviderDisabled(STRIPE_DISABLED, field="provider")
    return provider


def verified_event(body: bytes, signature: str | None, secret: str) -> WebhookEvent:
    """Return the event in the body of a webhook. Raise InvalidSignature, or Invalid."""
    import stripe  # see the docstring of this module

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
