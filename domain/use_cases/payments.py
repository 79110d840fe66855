"""Use cases of card payments. Each must run inside `because(cause)`."""

from __future__ import annotations

from uuid import UUID

from domain.billing.account import Account
from domain.billing.auto_top_up import AutoTopUp
from domain.billing.card_payment import CardFailure, CardPayment
from domain.billing.payment import Payment, Receipt
from domain.core.errors import CommandReused
from domain.core.event_log import EventLog, retrying
from domain.core.identity import auto_top_up_id, payment_id


class Paying:
    """Card payments of account holders."""

    def __init__(self, log: EventLog) -> None:
        self.log = log

    @retrying
    def start(
        self, card_payment_id: UUID, account_id: UUID, amount_micros: int, *, saves_card: bool
    ) -> CardPayment:
        """Start a payment. If the ID exists, return the existing payment.

        Raise Invalid if the amount is out of bounds, NotFound if the account does not exist, and
        CommandReused if the existing payment differs.
        """
        known = self.log.find(CardPayment, card_payment_id)
        if known is not None:
            known.require_same(amount_micros, saves_card=saves_card)
            return known
        self.log.load(Account, account_id)
        payment = CardPayment.start(
            card_payment_id, account_id, amount_micros, saves_card=saves_card
        )
        self.log.commit(payment)
        return payment

    @retrying
    def open_checkout(self, card_payment_id: UUID, checkout: str) -> CardPayment:
        """Record the provider's page of a payment."""
        payment = self.log.load(CardPayment, card_payment_id)
        payment.open_checkout(checkout)
        self.log.commit(payment)
        return payment

    @retrying
    def confirm(self, card_payment_id: UUID, receipt: Receipt) -> CardPayment:
        """Add a confirmed payment to the balance, once, in one transaction.

        If the balance already has it, because an operator confirmed it by its reference, only the
        state of the card payment changes. Raise CommandReused if the reference belongs to a payment
        of another account or amount.
        """
        card_payment = self.log.load(CardPayment, card_payment_id)
        if card_payment.reference == receipt.reference:
            return card_payment
        if card_payment.reference is not None:
            raise CommandReused(
                f"The card payment {card_payment_id} was already paid by "
                f"{card_payment.reference}, not by {receipt.reference}."
            )
        card_payment.confirm(receipt.reference)
        ended = self._ended(card_payment, None)
        known = self.log.find(Payment, payment_id(receipt.provider, receipt.reference))
        if known is not None:
            known.require_same(card_payment.account_id, receipt)
            self.log.commit(card_payment, *ended)
            return card_payment
        account = self.log.load(Account, card_payment.account_id)
        payment = Payment.receive(account.id, receipt)
        account.top_up(payment)
        self.log.commit(payment, account, card_payment, *ended)
        return card_payment

    @retrying
    def fail(self, card_payment_id: UUID, reason: CardFailure) -> CardPayment:
        """Record that a payment failed, unless it is paid. This turns automatic top-ups off."""
        payment = self.log.load(CardPayment, card_payment_id)
        payment.fail(reason)
        self.log.commit(payment, *self._ended(payment, payment.failure))
        return payment

    def _ended(self, payment: CardPayment, failure: CardFailure | None) -> list[AutoTopUp]:
        if not payment.automatic:
            return []
        top_ups = self.log.load(AutoTopUp, auto_top_up_id(payment.account_id))
        top_ups.end(payment.id, payment.amount_micros, failure)
        return [top_ups]
