"""The port to payment providers, which confirm payments before a balance changes."""

from __future__ import annotations

from typing import Protocol

from domain.billing.payment import TEST_DAY_MICROS, TEST_PROVIDER, Receipt
from domain.billing.reference import reference_of
from domain.core.errors import Invalid
from domain.core.money import MICROS_PER_DOLLAR, dollars
from infrastructure.settings import Settings

TEST_LEAST_MICROS, TEST_MOST_MICROS = MICROS_PER_DOLLAR // 100, TEST_DAY_MICROS
"""Bounds of one test payment, micro-dollars."""


class PaymentProvider(Protocol):
    """Confirms payments.

    Top-ups call `receipt` once per request, and again when a client retries. The same reference
    must give the same receipt.
    """

    name: str

    def receipt(self, reference: str, amount_micros: int) -> Receipt:
        """The payment with this reference. Raises Invalid if it is not a payment of the amount.

        `amount_micros` is the amount that the caller claims, in micro-dollars.
        """
        ...


class ManualProvider:
    """Money that arrived outside of the platform, such as a bank transfer.

    The caller is an operator, who vouches for it.
    """

    name = "manual"

    def receipt(self, reference: str, amount_micros: int) -> Receipt:
        """The payment as the operator states it. Raises Invalid for a malformed reference."""
        return Receipt(
            provider=self.name, reference=reference_of(reference), amount_micros=amount_micros
        )


class TestProvider:
    """Payments without money, for trials. Their references start with `test payment`."""

    name = TEST_PROVIDER

    def receipt(self, reference: str, amount_micros: int) -> Receipt:
        """Always paid. Raises Invalid for an amount out of bounds or a malformed reference."""
        if not TEST_LEAST_MICROS <= amount_micros <= TEST_MOST_MICROS:
            bounds = f"{dollars(TEST_LEAST_MICROS)} to {dollars(TEST_MOST_MICROS)}"
            raise Invalid(
                f"The amount {dollars(amount_micros)} is out of bounds. Enter {bounds}.",
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
"""Payment providers by name."""


def holders_provider(settings: Settings) -> PaymentProvider | None:
    """The provider of self-service top-ups; None if an operator confirms every payment."""
    return PROVIDERS[TEST_PROVIDER] if settings.test_payments else None


def provider_named(settings: Settings, name: str) -> PaymentProvider:
    """The provider with a name. Raises Invalid if it is unknown or disabled."""
    if name == TEST_PROVIDER and not settings.test_payments:
        raise Invalid(
            "Test payments are disabled. Set ECOLINK_TEST_PAYMENTS=true to enable them.",
            field="provider",
        )
    if name not in PROVIDERS:
        raise Invalid(
            f"Unknown payment provider {name!r}. Use one of: {', '.join(PROVIDERS)}.",
            field="provider",
        )
    return PROVIDERS[name]
