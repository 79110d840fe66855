"""The port to payment providers, which confirm payments before a balance changes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from domain.billing.payment import TEST_DAY_MICROS, TEST_PROVIDER, Receipt
from domain.billing.reference import reference_of
from domain.core.errors import DomainError, Invalid
from domain.core.event_log import EventLog
from domain.core.money import MICROS_PER_DOLLAR, dollars
from infrastructure.extensions import selected
from infrastructure.settings import Settings

TEST_MIN_MICROS, TEST_MAX_MICROS = MICROS_PER_DOLLAR // 100, TEST_DAY_MICROS
"""Bounds of the amount of one test payment, in micro-dollars."""


class PaymentProvider(Protocol):
    """A service that confirms payments.

    A top-up calls `receipt` once per request, and again when the client retries. The same reference
    must always return the same receipt.
    """

    @property
    def name(self) -> str:
        """Name of the provider in events."""
        ...

    def receipt(self, reference: str, amount_micros: int) -> Receipt:
        """Return the receipt of the payment with this reference.

        `amount_micros` is the amount that the caller claims, in micro-dollars. Raise Invalid if it
        does not match the payment.
        """
        ...


@dataclass(frozen=True)
class CardOrder:
    """A payment by card that an account holder starts. Its ID identifies a repeated request."""

    payment_id: UUID
    account_id: UUID
    amount_micros: int
    saves_card: bool = False


class CardProvider(PaymentProvider, Protocol):
    """A provider on whose pages account holders pay by card."""

    @property
    def page_hint(self) -> str:
        """Explanation of the provider's page, for the top-up form."""
        ...

    def start(self, log: EventLog, order: CardOrder, page_url: str) -> str | None:
        """Start a payment. Return the URL on which to pay, or None if it has ended.

        Afterwards, the provider sends the browser to `<page_url>/<payment id>`. Call it inside
        `because(cause)`. Raise Invalid, NotFound, CommandReused or ProviderUnavailable.
        """
        ...

    def remove_cards(self, customer: str) -> None:
        """Remove the cards of a customer. Raise ProviderUnavailable."""
        ...


class ProviderDisabled(Invalid):
    """The settings do not enable a provider."""


class ProviderUnavailable(DomainError):
    """The provider does not respond, or rejects EcoLink's request."""

    code = "payment_provider_unavailable"

    def __init__(self) -> None:
        super().__init__("The payment provider is unavailable. Try again in a minute.")


class RefundRefused(DomainError):
    """The provider refuses a refund."""

    code = "refund_refused"


class ManualProvider:
    """Payments that an operator confirms, such as bank transfers."""

    name = "manual"

    def receipt(self, reference: str, amount_micros: int) -> Receipt:
        """Return the receipt as stated by the operator, or raise Invalid."""
        return Receipt(
            provider=self.name, reference=reference_of(reference), amount_micros=amount_micros
        )


class TestProvider:
    """Test payments, which transfer no money. Their references start with `test payment`."""

    name = TEST_PROVIDER

    def receipt(self, reference: str, amount_micros: int) -> Receipt:
        """Return a receipt without a payment. Raise Invalid for amount or reference."""
        if not TEST_MIN_MICROS <= amount_micros <= TEST_MAX_MICROS:
            bounds = f"{dollars(TEST_MIN_MICROS)} to {dollars(TEST_MAX_MICROS)}"
            raise Invalid(
                f"The amount {dollars(amount_micros)} is out of range. Enter {bounds}.",
                field="amount",
            )
        return Receipt(
            provider=self.name,
            reference=reference_of(f"test payment {reference}"),
            amount_micros=amount_micros,
        )


PROVIDERS: dict[str, PaymentProvider] = {
    each.name: each for each in (ManualProvider(), TestProvider())
}
"""Payment providers that need no settings, by name."""


def self_service_provider(settings: Settings) -> PaymentProvider | None:
    """Return the provider of self-service top-ups, or None if operators confirm all payments."""
    return PROVIDERS[TEST_PROVIDER] if settings.test_payments else None


def card_provider() -> CardProvider | None:
    """Return the provider of payments by card, or None if none is enabled."""
    for opened in _of_extensions().values():
        with suppress(ProviderDisabled):
            return opened()
    return None


def _of_extensions() -> dict[str, Callable[[], CardProvider]]:
    return {
        name: extension.load(reference)
        for extension in selected()
        for name, reference in extension.payment_providers.items()
    }


def provider_named(settings: Settings, name: str) -> PaymentProvider:
    """Return the provider with this name. Raise Invalid if it is unknown or disabled."""
    if name == TEST_PROVIDER and not settings.test_payments:
        raise Invalid(
            "Test payments are disabled. Set ECOLINK_TEST_PAYMENTS=true to enable them.",
            field="provider",
        )
    added = _of_extensions()
    if name in added:
        return added[name]()
    if name not in PROVIDERS:
        known = ", ".join((*PROVIDERS, *added))
        raise Invalid(f"Unknown payment provider {name!r}. Use one of: {known}.", field="provider")
    return PROVIDERS[name]
