"""The port to payment providers, which confirm payments before a balance changes."""

from __future__ import annotations

from typing import Protocol

from domain.billing.payment import STRIPE_PROVIDER, TEST_DAY_MICROS, TEST_PROVIDER, Receipt
from domain.billing.reference import reference_of
from domain.core.errors import Invalid
from domain.core.money import MICROS_PER_DOLLAR, dollars
from infrastructure.payments.stripe_provider import stripe_provider
from infrastructure.settings import Settings

STRIPE_DISABLED = "Payments by Stripe are disabled. Set ECOLINK_STRIPE_SECRET_KEY to enable them."

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


def provider_named(settings: Settings, name: str) -> PaymentProvider:
    """Return the provider with this name. Raise Invalid if it is unknown or disabled."""
    if name == TEST_PROVIDER and not settings.test_payments:
        raise Invalid(
            "Test payments are disabled. Set ECOLINK_TEST_PAYMENTS=true to enable them.",
            field="provider",
        )
    if name == STRIPE_PROVIDER:
        stripe = stripe_provider(settings)
        if stripe is None:
            raise Invalid(STRIPE_DISABLED, field="provider")
        return stripe
    if name not in PROVIDERS:
        known = ", ".join((*PROVIDERS, STRIPE_PROVIDER))
        raise Invalid(f"Unknown payment provider {name!r}. Use one of: {known}.", field="provider")
    return PROVIDERS[name]
