"""Card payments through the provider. The provider's state decides, so any step can be repeated."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from domain.billing.card_payment import CardFailure, CardPayment, CardPaymentStatus
from domain.use_cases.payments import Paying
from infrastructure.stripe_provider import CheckoutStatus, StripeProvider


@dataclass(frozen=True)
class CardPayments:
    """Card payments of one provider. Call the methods inside `because(cause)`."""

    paying: Paying
    provider: StripeProvider

    def start(
        self, payment_id: UUID, account_id: UUID, amount_micros: int, page_url: str
    ) -> tuple[CardPayment, str | None]:
        """Start a payment with its checkout page. Return it with the URL of an open page.

        After the payment, the provider sends the browser to `<page_url>/<payment id>`. Calls with
        the same ID return the same payment. The payment is stored before the page is opened, and
        the page before its URL is returned, so that no customer can pay an unknown page.

        Raise Invalid, NotFound, CommandReused or ProviderUnavailable.
        """
        payment = self.paying.start(payment_id, account_id, amount_micros, saves_card=False)
        if not payment.is_pending:
            return payment, None
        back = f"{page_url}/{payment_id}"
        checkout = self.provider.open_checkout(payment, back, f"{back}?cancelled=1")
        payment = self.paying.open_checkout(payment_id, checkout.id)
        return payment, checkout.url if checkout.status is CheckoutStatus.OPEN else None

    def settle(self, payment_id: UUID) -> CardPayment | None:
        """Bring a payment to the provider's state. Return it, or None if it is not EcoLink's.

        Raise ProviderUnavailable.
        """
        payment = self.paying.log.find(CardPayment, payment_id)
        if payment is None or payment.status is CardPaymentStatus.PAID or payment.checkout is None:
            return payment
        found = self.provider.checkout(payment)
        match found.status:
            case CheckoutStatus.PAID:
                assert found.receipt is not None
                return self.paying.confirm(payment_id, found.receipt)
            case CheckoutStatus.EXPIRED:
                return self.paying.fail(payment_id, CardFailure.EXPIRED)
            case CheckoutStatus.MISMATCH:
                return self.paying.fail(payment_id, CardFailure.MISMATCH)
            case CheckoutStatus.OPEN:
                return payment
