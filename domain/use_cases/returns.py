"""Use cases of refunds and disputes. Each must run inside `because(cause)`.

Each one changes a payment and the balance of its account in one transaction. Repeating one changes
nothing. One that takes money also turns automatic top-ups off: they would charge the card whose
money goes back.
"""

from __future__ import annotations

from uuid import UUID

from domain.billing.account import Account
from domain.billing.auto_top_up import AutoTopUp, AutoTopUpEnd
from domain.billing.payment import STRIPE_PROVIDER, Payment, ReturnKind
from domain.core.errors import CommandReused, NotFound
from domain.core.event_log import EventLog, retrying
from domain.core.identity import auto_top_up_id, payment_id


class Returning:
    """Refunds and disputes of card payments. `reference` is that of the payment."""

    def __init__(self, log: EventLog) -> None:
        self.log = log

    def find(self, reference: str) -> Payment | None:
        """Return the payment with this reference, or None."""
        return self.log.find(Payment, payment_id(STRIPE_PROVIDER, reference))

    def load(self, reference: str) -> Payment:
        """Return the payment with this reference. Raise NotFound."""
        found = self.find(reference)
        if found is None:
            raise NotFound(
                f"Unknown payment {reference!r}. Enter the reference of a payment by card, such as "
                "pi_3Abc."
            )
        return found

    @retrying
    def request_refund(
        self, account_id: UUID, reference: str, return_id: str, amount_micros: int
    ) -> Payment:
        """Request a refund of a part of a payment, and take it from the balance.

        Raise NotFound if the account has no such payment, Invalid if the amount is more than what
        is not returned yet, InsufficientBalance if it is more than the available balance, and
        CommandReused if the ID of the return belongs to another amount.
        """
        payment = self.load(reference)
        if payment.account_id != account_id:
            raise NotFound(f"The account has no payment {reference!r}. Check the reference.")
        known = payment.returns.get(return_id)
        if known is not None:
            if known.amount_micros != amount_micros:
                raise CommandReused("You already used this key for another refund. Use a new key.")
            return payment
        account = self.log.load(Account, account_id)
        payment.request_refund(return_id, amount_micros)
        account.withhold(amount_micros, payment, return_id)
        self.log.commit(payment, account, *self._stopped(account_id))
        return payment

    @retrying
    def fail_refund(self, reference: str, return_id: str) -> Payment:
        """Record that the provider refused a requested refund, and restore the balance."""
        payment, account = self._loaded(reference)
        account.restore(payment.fail_refund(return_id), payment, return_id)
        self.log.commit(payment, account)
        return payment

    @retrying
    def take_back(
        self, reference: str, return_id: str, kind: ReturnKind, amount_micros: int
    ) -> Payment:
        """Record money that the provider took back, and take it from the available balance."""
        payment, account = self._loaded(reference)
        ended = [] if return_id in payment.returns else self._stopped(account.id)
        withheld = payment.take_back(return_id, kind, amount_micros, account.available_micros)
        account.withhold(withheld, payment, return_id)
        self.log.commit(payment, account, *ended)
        return payment

    @retrying
    def reverse(self, reference: str, return_id: str) -> Payment:
        """Record that the provider paid the money again, and restore the balance."""
        payment, account = self._loaded(reference)
        account.restore(payment.reverse_return(return_id), payment, return_id)
        self.log.commit(payment, account)
        return payment

    @retrying
    def close(self, reference: str, return_id: str) -> Payment:
        """Record that a dispute was lost. Take what is missing from the available balance."""
        payment, account = self._loaded(reference)
        withheld = payment.close_return(return_id, account.available_micros)
        account.withhold(withheld, payment, return_id)
        self.log.commit(payment, account, *(self._stopped(account.id) if withheld else ()))
        return payment

    def _loaded(self, reference: str) -> tuple[Payment, Account]:
        payment = self.load(reference)
        return payment, self.log.load(Account, payment.account_id)

    def _stopped(self, account_id: UUID) -> list[AutoTopUp]:
        known = self.log.find(AutoTopUp, auto_top_up_id(account_id))
        if known is None:
            return []
        known.disable(AutoTopUpEnd.FAILED)
        return [known]
