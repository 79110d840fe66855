"""The port to payment providers: what confirms that money arrived, before a balance shows it."""

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
    """Says what was paid. Asked again for the same reference it says the same."""

    name: str

    def receipt(self, reference: str, amount_micros: int) -> Receipt:
        """The payment with this reference; raises Invalid when it is not a payment of the amount.

        `amount_micros` is what the caller believes was paid, micro-dollars.
        """
        ...


class ManualProvider:
    """Money that arrived outside of the platform, such as by bank transfer.

    Who calls is an operator, and vouches for it.
    """

    name = "manual"

    def receipt(self, reference: str, amount_micros: int) -> Receipt:
        """The payment as the operator says it is; raises Invalid for a malformed reference."""
        return Receipt(
            provider=self.name, reference=reference_of(reference), amount_micros=amount_micros
        )


class TestProvider:
    """Payments behind which no money is, for trying the platform out; their references say so."""

    name = TEST_PROVIDER

    def receipt(self, reference: str, amount_micros: int) -> Receipt:
        """Always paid; raises Invalid for an amount out of bounds or a malformed reference."""
        if not TEST_LEAST_MICROS <= amount_micros <= TEST_MOST_MICROS:
            bounds = f"{dollars(TEST_LEAST_MICROS)} to {dollars(TEST_MOST_MICROS)}"
            raise Invalid(f"a test payment is {bounds}", field="amount")
        return Receipt(
            provider=self.name,
            reference=reference_of(f"test payment {reference}"),
            amount_micros=amount_micros,
        )


PROVIDERS: dict[str, PaymentProvider] = {
    each.name: each for each in (ManualProvider(), TestProvider())
}
"""Every provider by its name."""


def holders_provider(settings: Settings) -> PaymentProvider | None:
    """The provider of self-service top-ups; None if an operator confirms every payment."""
    return PROVIDERS[TEST_PROVIDER] if settings.test_payments else None


def provider_named(settings: Settings, name: str) -> PaymentProvider:
    """The provider with a name; raises Invalid if there is none, or it is switched off."""
    if name == TEST_PROVIDER and not settings.test_payments:
        raise Invalid(
            "test payments are off; set ECOLINK_TEST_PAYMENTS to try EcoLink out with them",
            field="provider",
        )
    if name not in PROVIDERS:
        raise Invalid(
            f"no payment provider {name!r}; choose from {', '.join(PROVIDERS)}", field="provider"
        )
    return PROVIDERS[name]
