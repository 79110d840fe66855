"""Card payments through the provider. The provider's state decides, so any step can be repeated."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from domain.billing.account import Account
from domain.billing.auto_top_up import AutoTopUp, SavedCard
from domain.billing.card_payment import CardFailure, CardPayment, CardPaymentStatus
from domain.billing.payment import Payment, Receipt
from domain.core.aggregate import current_cause
from domain.core.identity import auto_top_up_id, payment_id
from domain.use_cases.accounts import EcoLink
from domain.use_cases.auto_top_ups import AutoToppingUp
from domain.use_cases.payments import Paying
from extensions.card_payments.stripe_provider import ChargeStatus, CheckoutStatus
from infrastructure.payments.provider import CardOrder, ProviderUnavailable

if TYPE_CHECKING:
    from extensions.card_payments.stripe_client import StripeProvider

KEY_LIFE = timedelta(hours=1)
"""Time for which only the idempotency key prevents a second charge. Stripe may forget it later."""

CHARGE_LIFE = timedelta(hours=20)
"""Time for which a charge may be sent. After that, the balance that caused it is outdated."""

FAILURES: Mapping[ChargeStatus, CardFailure] = {
    ChargeStatus.DECLINED: CardFailure.DECLINED,
    ChargeStatus.AUTHENTICATION_REQUIRED: CardFailure.AUTHENTICATION_REQUIRED,
    ChargeStatus.MISMATCH: CardFailure.MISMATCH,
}

log = logging.getLogger("card_payments")


@dataclass(frozen=True)
class CardPayments:
    """Card payments of one provider. Call the methods inside `because(cause)`."""

    paying: Paying
    provider: StripeProvider

    @property
    def auto(self) -> AutoToppingUp:
        """The use cases of saved cards."""
        return AutoToppingUp(self.paying.log)

    def start(self, order: CardOrder, page_url: str) -> tuple[CardPayment, str | None]:
        """Start a payment with its checkout page. Return it with the URL of an open page.

        After the payment, the provider sends the browser to `<page_url>/<payment id>`. Calls with
        the same ID return the same payment. The payment is stored before the page is opened, and
        the page before its URL is returned, so that no customer can pay an unknown page.

        Raise Invalid, NotFound, CommandReused or ProviderUnavailable.
        """
        payment_id, saves_card = order.payment_id, order.saves_card
        payment = self.paying.start(
            payment_id, order.account_id, order.amount_micros, saves_card=saves_card
        )
        if not payment.is_pending:
            return payment, None
        back = f"{page_url}/{payment_id}"
        known = self.auto.find(order.account_id) if saves_card else None
        customer = None if known is None else known.customer
        checkout = self.provider.open_checkout(payment, back, f"{back}?cancelled=1", customer)
        payment = self.paying.open_checkout(payment_id, checkout.id)
        return payment, checkout.url if checkout.status is CheckoutStatus.OPEN else None

    def settle(self, payment_id: UUID) -> CardPayment | None:
        """Bring a payment to the provider's state. Return it, or None if it is not EcoLink's."""
        payment = self.paying.log.find(CardPayment, payment_id)
        if payment is None or payment.status is CardPaymentStatus.PAID:
            return payment
        if payment.automatic:
            return self._charge(payment) if payment.is_pending else self._paid_late(payment)
        return payment if payment.checkout is None else self._settle_checkout(payment)

    def recover(self, since: datetime) -> Iterator[tuple[Receipt, Account | None]]:
        """Add payments since a time that the log lacks to their balances. This charges no card.

        Yield each with its account, or None if it has to be added manually, because the account is
        unknown or the log has another amount. Raise ProviderUnavailable.
        """
        events = self.paying.log
        for receipt, card_payment_id, account_id in self.provider.payments_since(since):
            if events.find(Payment, payment_id(receipt.provider, receipt.reference)) is not None:
                continue
            known = events.find(CardPayment, card_payment_id)
            if known is not None:
                is_same = known.amount_micros == receipt.amount_micros
                account_id = known.account_id if is_same else None
            account = None if account_id is None else events.find(Account, account_id)
            if account is not None:
                EcoLink(events).top_up(account.id, receipt)
            yield receipt, account

    def _settle_checkout(self, payment: CardPayment) -> CardPayment:
        found = self.provider.checkout(payment)
        match found.status:
            case CheckoutStatus.PAID:
                assert found.receipt is not None
                before = None if found.card is None else self.auto.find(payment.account_id)
                if found.card is not None:
                    self.auto.save_card(payment.account_id, found.card)
                payment = self.paying.confirm(payment.id, found.receipt)
                if found.card is not None and before is not None:
                    self._remove_replaced(before, found.card)
                return payment
            case CheckoutStatus.EXPIRED:
                return self.paying.fail(payment.id, CardFailure.EXPIRED)
            case CheckoutStatus.MISMATCH:
                return self.paying.fail(payment.id, CardFailure.MISMATCH)
            case CheckoutStatus.OPEN:
                return payment

    def _remove_replaced(self, before: AutoTopUp, card: SavedCard) -> None:
        """Remove the replaced card at the provider, unless a charge may still use it."""
        replaced = before.card
        if replaced is None or replaced == card or before.charge is not None:
            return
        try:
            self.provider.remove_card(replaced)
        except ProviderUnavailable:
            log.warning("cannot remove the replaced card of account %s", before.account_id)

    def _paid_late(self, payment: CardPayment) -> CardPayment:
        known = self.auto.find(payment.account_id)
        assert known is not None
        answer = self.provider.find_charge(payment, known.customer)
        if answer is None or answer.receipt is None:
            return payment
        return self.paying.confirm(payment.id, answer.receipt)

    def _charge(self, payment: CardPayment) -> CardPayment:
        """Charge the saved card. Only look up a charge that is old or no longer wanted."""
        events = self.paying.log
        top_ups = events.load(AutoTopUp, auto_top_up_id(payment.account_id))
        charge = top_ups.charge
        if charge is None or charge.payment_id != payment.id:
            return events.load(CardPayment, payment.id)  # another process ended it meanwhile
        age = current_cause().now - events.first_event(payment.id).timestamp
        suspended = events.load(Account, payment.account_id).suspension is not None
        sends = top_ups.enabled and not suspended and age < CHARGE_LIFE
        answer = None
        if not sends or age >= KEY_LIFE:
            answer = self.provider.find_charge(payment, charge.card.customer)
        if answer is None and sends:
            answer = self.provider.charge(payment, charge.card)
        if answer is None:
            return self.paying.fail(payment.id, CardFailure.EXPIRED)
        if answer.status is ChargeStatus.PENDING:
            return payment
        if answer.status is ChargeStatus.PAID:
            assert answer.receipt is not None
            return self.paying.confirm(payment.id, answer.receipt)
        return self.paying.fail(payment.id, FAILURES[answer.status])
