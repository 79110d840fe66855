"""A payment that a provider received, with its refunds and disputes. It counts once."""

from __future__ import annotations

from enum import StrEnum
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


class ReturnKind(StrEnum):
    """Ways in which a payment is returned."""

    REFUND = "refund"
    DISPUTE = "dispute"


class ReturnStatus(StrEnum):
    """States of a return."""

    REQUESTED = "requested"
    """An operator requested a refund, which the provider has not confirmed."""
    RETURNED = "returned"
    """The provider took the money back."""
    REVERSED = "reversed"
    """The money was not returned, or EcoLink has it again."""
    CLOSED = "closed"
    """The money stays returned, unless the provider pays it again later."""


class Return(Value):
    """A refund or a dispute of a payment."""

    kind: ReturnKind
    status: ReturnStatus
    amount_micros: int
    withheld_micros: int  # the part that was taken from the balance

    @property
    def counts(self) -> bool:
        """True if the money is or will be returned."""
        return self.status is not ReturnStatus.REVERSED

    @property
    def missing_micros(self) -> int:
        """Part that was not taken from the balance, in micro-dollars."""
        return self.amount_micros - self.withheld_micros


class Payment(Aggregate):
    """A payment. Its ID is derived from the provider and the reference, so that it counts once."""

    TOPIC: ClassVar[str] = "Payment"

    class Event(Aggregate.Event):
        """Base class of the events of a payment."""

    class PaymentReceived(Event, Created):
        """A payment provider confirmed a payment for an account."""

        provider: str
        reference: str
        amount_micros: int

    class RefundRequested(Event):
        """An operator refunded a part of the payment. The balance no longer has the amount."""

        return_id: str
        amount_micros: int

    class RefundFailed(Event):
        """The provider did not refund the payment. The balance has the amount again."""

        return_id: str
        amount_micros: int

    class PaymentReturned(Event):
        """The provider took back money: it made a refund, or the customer's bank disputes it.

        `withheld_micros` is the part that the balance covered in the same save. A refund that was
        requested took its amount from the balance before.
        """

        return_id: str
        kind: ReturnKind
        amount_micros: int
        withheld_micros: int

    class ReturnReversed(Event):
        """The provider paid the money again: it decided for EcoLink, or the refund failed later.

        `restored_micros` is the part that the balance has again.
        """

        return_id: str
        amount_micros: int
        restored_micros: int

    class ReturnClosed(Event):
        """The money stays returned. `lost_micros` is the part that no balance covered.

        `withheld_micros` is the part that the balance covered only now.
        """

        return_id: str
        withheld_micros: int
        lost_micros: int

    class LossRecovered(Event):
        """The money of a closed return came back, also the part that no balance had covered."""

        return_id: str
        recovered_micros: int

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
        self.returns: dict[str, Return] = {}

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

    @property
    def returned_micros(self) -> int:
        """Part that was or will be returned, in micro-dollars."""
        return sum(each.amount_micros for each in self.returns.values() if each.counts)

    @property
    def refundable_micros(self) -> int:
        """Part that can still be refunded, in micro-dollars."""
        return self.amount_micros - self.returned_micros

    def request_refund(self, return_id: str, amount_micros: int) -> None:
        """Request a refund. Raise Invalid unless the amount is above 0 and not returned yet."""
        if not 0 < amount_micros <= self.refundable_micros:
            raise Invalid(
                f"The refund is {dollars(amount_micros)}. Enter an amount above 0, up to the "
                f"{dollars(self.refundable_micros)} of the payment that are not returned.",
                field="amount",
            )
        self.trigger_event(self.RefundRequested, return_id=return_id, amount_micros=amount_micros)

    @event(RefundRequested)
    def _refund_requested(self, return_id: str, amount_micros: int) -> None:
        self.returns[return_id] = Return(
            kind=ReturnKind.REFUND,
            status=ReturnStatus.REQUESTED,
            amount_micros=amount_micros,
            withheld_micros=amount_micros,
        )

    def fail_refund(self, return_id: str) -> int:
        """Record that the provider refused a requested refund. Return the amount to restore."""
        known = self.returns[return_id]
        if known.status is not ReturnStatus.REQUESTED:
            return 0
        self.trigger_event(
            self.RefundFailed, return_id=return_id, amount_micros=known.amount_micros
        )
        return known.amount_micros

    @event(RefundFailed)
    def _refund_failed(self, return_id: str) -> None:
        self._change(return_id, status=ReturnStatus.REVERSED, withheld_micros=0)

    def take_back(
        self, return_id: str, kind: ReturnKind, amount_micros: int, available_micros: int
    ) -> int:
        """Record money that the provider took back, once. Return the amount to withhold.

        A balance covers the amount up to `available_micros`. The rest of a refund is lost, and
        that of a dispute waits for its end.
        """
        known = self.returns.get(return_id)
        if known is not None and known.status is not ReturnStatus.REQUESTED:
            return 0
        withheld = min(amount_micros, max(0, available_micros)) if known is None else 0
        self.trigger_event(
            self.PaymentReturned,
            return_id=return_id,
            kind=kind,
            amount_micros=amount_micros,
            withheld_micros=withheld,
        )
        if kind is ReturnKind.REFUND:
            lost = self.returns[return_id].missing_micros
            if lost:
                self.trigger_event(
                    self.ReturnClosed, return_id=return_id, withheld_micros=0, lost_micros=lost
                )
        return withheld

    @event(PaymentReturned)
    def _payment_returned(
        self, return_id: str, kind: ReturnKind, amount_micros: int, withheld_micros: int
    ) -> None:
        before = self.returns.get(return_id)
        self.returns[return_id] = Return(
            kind=kind,
            status=ReturnStatus.RETURNED,
            amount_micros=amount_micros,
            withheld_micros=withheld_micros + (before.withheld_micros if before else 0),
        )

    def reverse_return(self, return_id: str) -> int:
        """Record that the money came back, also of a loss. Return the amount to restore."""
        known = self.returns.get(return_id)
        if known is None or known.status not in (ReturnStatus.RETURNED, ReturnStatus.CLOSED):
            return 0
        self.trigger_event(
            self.ReturnReversed,
            return_id=return_id,
            amount_micros=known.amount_micros,
            restored_micros=known.withheld_micros,
        )
        if known.status is ReturnStatus.CLOSED and known.missing_micros:
            self.trigger_event(
                self.LossRecovered, return_id=return_id, recovered_micros=known.missing_micros
            )
        return known.withheld_micros

    @event(ReturnReversed)
    def _return_reversed(self, return_id: str) -> None:
        self._change(return_id, status=ReturnStatus.REVERSED, withheld_micros=0)

    def close_return(self, return_id: str, available_micros: int) -> int:
        """Record that a dispute was lost. Return the amount to withhold in addition."""
        known = self.returns.get(return_id)
        if known is None or known.status is not ReturnStatus.RETURNED:
            return 0
        withheld = min(known.missing_micros, max(0, available_micros))
        self.trigger_event(
            self.ReturnClosed,
            return_id=return_id,
            withheld_micros=withheld,
            lost_micros=known.missing_micros - withheld,
        )
        return withheld

    @event(ReturnClosed)
    def _return_closed(self, return_id: str, withheld_micros: int) -> None:
        known = self.returns[return_id]
        withheld = known.withheld_micros + withheld_micros
        self._change(return_id, status=ReturnStatus.CLOSED, withheld_micros=withheld)

    def _change(self, return_id: str, **changes: object) -> None:
        self.returns[return_id] = self.returns[return_id].model_copy(update=changes)
