"""Payment: money that a provider received, used once on the whole platform."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from eventsourcing.domain import event
from pydantic import BaseModel, ConfigDict

from domain.core.aggregate import Aggregate, Created
from domain.core.errors import CommandReused, Invalid
from domain.core.identity import payment_id
from domain.core.money import MICROS_PER_DOLLAR, dollars

TEST_PROVIDER = "test"
"""The provider of payments without money behind them, for trying EcoLink out."""

TEST_DAY_MICROS = 1_000 * MICROS_PER_DOLLAR
"""The most test money that an account takes in one UTC day, micro-dollars."""


class Receipt(BaseModel):
    """What a payment provider says of a payment, micro-dollars."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: str
    reference: str
    amount_micros: int


class Payment(Aggregate):
    """One payment. Its id is derived from provider and reference, so it counts once."""

    TOPIC: ClassVar[str] = "Payment"

    class PaymentReceived(Created):
        """A provider confirmed a payment for an account."""

        provider: str
        reference: str
        amount_micros: int

    @classmethod
    def receive(cls, account_id: UUID, receipt: Receipt) -> Payment:
        """The payment of a receipt; raises Invalid for an amount that is not above 0."""
        if receipt.amount_micros <= 0:
            raise Invalid("a payment must be above 0", field="amount")
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
        """Raise CommandReused unless this is that account's payment of that amount."""
        if account_id != self.account_id:
            raise CommandReused(
                f"{self.reference!r} was used for another account", field="reference"
            )
        if receipt.amount_micros != self.amount_micros:
            raise CommandReused(
                f"{self.reference!r} was used for {dollars(self.amount_micros)}", field="reference"
            )
