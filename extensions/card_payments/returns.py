"""Refunds and disputes through the provider. Its state decides, so any step can be repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from uuid import UUID, uuid5

from domain.billing.payment import Payment, Return, ReturnKind, ReturnStatus
from domain.core.event_log import EventLog
from domain.use_cases.payments import Paying
from domain.use_cases.returns import Returning
from extensions.card_payments.payments import CardPayments
from extensions.card_payments.stripe_provider import (
    Dispute,
    DisputeStatus,
    Refund,
    enabled_provider,
)
from infrastructure.payments.provider import RefundRefused


@dataclass(frozen=True)
class CardReturns:
    """Refunds and disputes of card payments. Call the methods inside `because(cause)`."""

    returning: Returning
    payments: CardPayments

    def refund(self, account_id: UUID, reference: str, amount_micros: int, purpose: str) -> Payment:
        """Refund a part of a payment, once for each purpose.

        EcoLink takes the amount from the balance first, so that no job can spend it meanwhile.
        Raise NotFound, Invalid, InsufficientBalance or CommandReused; RefundRefused if the provider
        refuses the refund, now or before; and ProviderUnavailable if it does not respond. Then
        billing repeats the refund.
        """
        return_id = str(uuid5(self.returning.load(reference).id, f"refund:{purpose}"))
        asked = self.returning.request_refund(account_id, reference, return_id, amount_micros)
        if asked.returns[return_id].status is ReturnStatus.REVERSED:
            raise RefundRefused(
                f"The refund with the reference {purpose!r} failed before, and the balance has the "
                "amount again. To refund the payment, use another reference."
            )
        return self.send_refund(reference, return_id)

    def send_refund(self, reference: str, return_id: str) -> Payment:
        """Make a requested refund at the provider, unless the provider has it already.

        Stripe forgets idempotency keys after a day, so the key alone does not prevent a second
        refund. Raise RefundRefused or ProviderUnavailable.
        """
        payment = self.returning.load(reference)
        asked = payment.returns[return_id]
        if asked.status is not ReturnStatus.REQUESTED:
            return payment
        provider = self.payments.provider
        try:
            made = [each for each in provider.refunds(reference) if each.return_id == return_id]
            if not made:
                provider.refund(reference, return_id, asked.amount_micros)
            elif made[0].failed:
                raise RefundRefused(
                    "The customer's bank did not accept the refund. The balance has the amount "
                    "again. Check the payment in Stripe's dashboard."
                )
        except RefundRefused:
            self.returning.fail_refund(reference, return_id)
            raise
        return self.returning.take_back(
            reference, return_id, ReturnKind.REFUND, asked.amount_micros
        )

    def settle_refunds(self, reference: str) -> None:
        """Record a payment's refunds, also those made in the provider's dashboard."""
        if self._found(reference) is None:
            return
        for refund in self.payments.provider.refunds(reference):
            known = self.returning.load(reference).returns.get(refund.return_id)
            if not refund.failed:
                self.returning.take_back(
                    reference, refund.return_id, ReturnKind.REFUND, refund.amount_micros
                )
            elif known is not None and known.status is ReturnStatus.REQUESTED:
                self.returning.fail_refund(reference, refund.return_id)
            elif known is not None:
                self.returning.reverse(reference, refund.return_id)

    def settle_dispute(self, dispute_id: str) -> None:
        """Bring a dispute to the provider's state. Raise ProviderUnavailable."""
        dispute = self.payments.provider.dispute(dispute_id)
        if dispute is None or dispute.status is DisputeStatus.NONE:
            return
        if self._found(dispute.reference) is None:
            return
        self.returning.take_back(
            dispute.reference, dispute.id, ReturnKind.DISPUTE, dispute.amount_micros
        )
        if dispute.status is DisputeStatus.WON:
            self.returning.reverse(dispute.reference, dispute.id)
        elif dispute.status is DisputeStatus.LOST:
            self.returning.close(dispute.reference, dispute.id)

    def unrecorded(self, since: datetime) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield a step for each refund and dispute that EcoLink recorded otherwise, or not at all.

        Each comes with the reference of its payment, or the ID of the dispute. Run it inside
        `because(cause)`. Omit refunds and disputes of payments that EcoLink does not know. Raise
        ProviderUnavailable.
        """
        for reference, refund in self.payments.provider.refunds_since(since):
            payment = self.returning.find(reference)
            if payment is not None and _differs(refund, payment.returns.get(refund.return_id)):
                yield reference, partial(self.settle_refunds, reference)
        for dispute in self.payments.provider.disputes_since(since):
            payment = self.returning.find(dispute.reference)
            if payment is not None and _is_behind(dispute, payment.returns.get(dispute.id)):
                yield dispute.id, partial(self.settle_dispute, dispute.id)

    def _found(self, reference: str) -> Payment | None:
        """Return a payment of EcoLink, after confirming it if this event came first."""
        known = self.returning.find(reference)
        if known is not None:
            return known
        payment_id = self.payments.provider.payment_of(reference)
        if payment_id is not None:
            self.payments.settle(payment_id)
        return self.returning.find(reference)


def card_returns(log: EventLog) -> CardReturns:
    """Return the refunds and disputes of a log. Raise ProviderDisabled without a secret key."""
    return CardReturns(Returning(log), CardPayments(Paying(log), enabled_provider()))


def _differs(refund: Refund, known: Return | None) -> bool:
    if known is None:
        return not refund.failed
    if refund.failed:
        return known.status is not ReturnStatus.REVERSED
    return known.status is ReturnStatus.REQUESTED


def _is_behind(dispute: Dispute, known: Return | None) -> bool:
    """Return True if a dispute, or its end, has to be recorded."""
    match dispute.status:
        case DisputeStatus.NONE:
            return False
        case DisputeStatus.OPEN:
            return known is None
        case DisputeStatus.WON:
            return known is None or known.status is not ReturnStatus.REVERSED
        case DisputeStatus.LOST:
            return known is None or known.status is ReturnStatus.RETURNED
