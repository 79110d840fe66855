"""The port to payment providers: what confirms that money arrived, before a balance shows it."""

from __future__ import annotations

from typing import Protocol

from domain.errors import Invalid
from domain.payment import Receipt
from domain.reference import reference_of


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


PROVIDERS: dict[str, PaymentProvider] = {each.name: each for each in (ManualProvider(),)}
"""Every provider by its name."""


def provider_named(name: str) -> PaymentProvider:
    """The provider with a name; raises Invalid, listing those that there are."""
    if name not in PROVIDERS:
        raise Invalid(
            f"no payment provider {name!r}; choose from {', '.join(PROVIDERS)}", field="provider"
        )
    return PROVIDERS[name]
