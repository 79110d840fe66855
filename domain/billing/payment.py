"""A payment that a payment provider received. An account counts each payment once."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from eventsourcing.domain import event

from domain.core.aggregate import Aggregate, Created
from domain.core.errors import CommandReused, Invalid
from domain.core.identity import payment_id
from domain.core.money import MICROS_PER_DOLLAR, dollars
from domain.core.value import Value

TEST_PROVIDER = "test"
"""Provider of test payments, which transfer no money."""

STRIPE_PROVIDER = "stripe"
"""Provider of card payments. Their references are IDs of PaymentIntents."""

TEST_DAY_MICROS = 1_000 * MICROS_PER_DOLLAR
"""Daily limit of an account's test payments, in micro-dollars. A day starts at midnight UTC."""


class Receipt(Value):
    """A payment provider's confirmation of a payment."""

    provider: str
    reference: str
    amount_micros: int


class Payment(Aggregate):
    """A payment. Its ID is derived from the provider and the reference, so that it counts once."""

    TOPIC: ClassVar[str] = "Payment"

    class PaymentReceived(Created):
        """A payment provider confirmed a payment for an account."""

        provider: str
        reference: str
        amount_micros: int

    @classmethod
    def receive(cls, account_id: UUID, receipt: Receipt) -> Payment:
        """Return the payment for a receipt. Raise Invalid if the amount is not positive."""
        if receipt.amount_micros <= 0:
            raise Invalid(
                f"The payment is {dollars(receipt.amount_micros)}. Enter an amount above 0.",
                field="amount",
            )
        return cls._create(
            cls.PaymentReceived,
            id=payment_id(receipt.provider, receipt.reference),
            account_id=account_id,
            **receipt.model_dump(),
        )

    @event(PaymentReceived)
    def __init__(self, account_id: UUID, provider: str, reference: str, amount_micros: int) -> None:
        self.account_id = account_id
        self.provider = provider
        self.reference = reference
        self.amount_micros = amount_micros

    def require_same(self, account_id: UUID, receipt: Receipt) -> None:
        """Raise CommandReused unless the payment has the same account and amount."""
        if account_id == self.account_id and receipt.amount_micros == self.amount_micros:
            return
        use = dollars(self.amount_micros) if account_id == self.account_id else "another account"
        raise CommandReused(
            f"The reference {self.reference!r} already belongs to a payment of {use}. Use "
            "another reference.",
            field="reference",
        )
