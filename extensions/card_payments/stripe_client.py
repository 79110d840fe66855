"""The client of Stripe: checkout pages, charges of saved cards, refunds and disputes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, TypeVar
from uuid import UUID

import stripe

from domain.billing.auto_top_up import SavedCard
from domain.billing.card_payment import CardPayment
from domain.billing.payment import STRIPE_PROVIDER, Receipt
from domain.billing.reference import reference_of
from domain.core.errors import Invalid
from domain.core.event_log import EventLog
from domain.core.money import CENT_MICROS, dollars
from domain.use_cases.payments import Paying
from extensions.card_payments.payments import CardPayments
from extensions.card_payments.stripe_provider import (
    PAYMENT_FIELD,
    ChargeResponse,
    ChargeStatus,
    Checkout,
    CheckoutStatus,
    Dispute,
    DisputeStatus,
    Refund,
)
from infrastructure.payments.provider import CardOrder, ProviderUnavailable, RefundRefused

CURRENCY = "usd"
TIMEOUT_SECONDS = 20.0
NETWORK_RETRIES = 2
"""Retries of the library for lost connections. All requests that change anything have a key."""

RETURN_FIELD = "ecolink_return"
"""Name of the metadata field with the ID of our refund."""

ACCOUNT_FIELD = "ecolink_account"
"""Name of the metadata field with the ID of the account."""

PRODUCT = "EcoLink balance"

PAGE_HINT = (
    "You pay on a page of Stripe. EcoLink never sees your card. It adds the amount to your balance "
    "when Stripe confirms the payment."
)

APPROVAL_CODES = ("authentication_required", "payment_intent_authentication_failure")
"""Codes of a failed charge that the bank asks the card holder to approve."""

log = logging.getLogger("stripe_provider")
logging.getLogger("stripe").setLevel(logging.WARNING)  # it logs two lines for each request

T = TypeVar("T")


@dataclass(frozen=True)
class StripeProvider:
    """Payments by Stripe. The reference of a payment is the ID of its PaymentIntent."""

    client: stripe.StripeClient

    @property
    def name(self) -> str:
        """Name of the provider in events."""
        return STRIPE_PROVIDER

    @property
    def page_hint(self) -> str:
        """Explanation of Stripe's page, for the top-up form."""
        return PAGE_HINT

    def start(self, log: EventLog, order: CardOrder, page_url: str) -> str | None:
        """Start a payment. Return the URL on which to pay, or None if it has ended."""
        return CardPayments(Paying(log), self).start(order, page_url)[1]

    def receipt(self, reference: str, amount_micros: int) -> Receipt:
        """Return the receipt of a successful PaymentIntent.

        Raise Invalid if it does not exist, did not succeed, has another amount, or was refunded or
        disputed since.
        """
        reference = reference_of(reference)
        if not reference.startswith("pi_"):
            raise Invalid(
                f"{reference!r} is no payment of Stripe. Enter the ID of a PaymentIntent, such as "
                "pi_3Abc.",
                field="reference",
            )
        try:
            intent = self._with_charge(reference)
        except stripe.InvalidRequestError as error:
            raise Invalid(
                f"Stripe has no payment {reference!r}. Check the reference.", field="reference"
            ) from error
        except stripe.StripeError as error:
            raise _unavailable(error) from None
        paid = _micros(intent.amount)
        if intent.status != "succeeded" or intent.currency != CURRENCY or paid != amount_micros:
            raise Invalid(
                f"The payment {reference} is {dollars(paid)} in {intent.currency.upper()} and "
                f"{intent.status}, not a successful payment of {dollars(amount_micros)}.",
                field="amount",
            )
        charge = intent.latest_charge
        if isinstance(charge, stripe.Charge) and (charge.amount_refunded or charge.disputed):
            raise Invalid(
                f"Stripe returned a part of the payment {reference}, or a bank disputes it. Enter "
                "a payment of which Stripe has the whole amount.",
                field="reference",
            )
        return Receipt(provider=self.name, reference=reference, amount_micros=amount_micros)

    def open_checkout(
        self, payment: CardPayment, success_url: str, cancel_url: str, customer: str | None = None
    ) -> Checkout:
        """Open the checkout page of a payment, or return the page that is already open.

        `customer` is the provider's ID of a customer who saved a card before.

        The ID of the payment is the idempotency key, so a repeated request opens no second page.
        Raise ProviderUnavailable.
        """
        if payment.checkout is not None:
            return self.checkout(payment)
        named = str(payment.id)
        params: dict[str, Any] = {
            "mode": "payment",
            "payment_method_types": ["card"],
            "line_items": [
                {
                    "quantity": 1,
                    "price_data": {
                        "currency": CURRENCY,
                        "unit_amount": _cents(payment.amount_micros),
                        "product_data": {"name": PRODUCT},
                    },
                }
            ],
            "client_reference_id": named,
            "metadata": _metadata(payment),
            "payment_intent_data": {"metadata": _metadata(payment)},
            "success_url": success_url,
            "cancel_url": cancel_url,
        }
        if payment.saves_card:
            params["payment_intent_data"]["setup_future_usage"] = "off_session"
            params |= {"customer": customer} if customer else {"customer_creation": "always"}
        options: stripe.RequestOptions = {"idempotency_key": f"checkout-{named}"}
        session = _called(lambda: self.client.v1.checkout.sessions.create(params, options))  # type: ignore[arg-type]
        return _checkout(session, payment)

    def checkout(self, payment: CardPayment) -> Checkout:
        """Return the current state of a payment's checkout page. Raise ProviderUnavailable."""
        checkout = payment.checkout
        assert checkout is not None
        expanded = {"expand": ["payment_intent"]}
        session = _called(lambda: self.client.v1.checkout.sessions.retrieve(checkout, expanded))  # type: ignore[arg-type]
        return _checkout(session, payment)

    def charge(self, payment: CardPayment, card: SavedCard) -> ChargeResponse:
        """Charge a saved card while its holder is absent, or return the answer to that charge.

        The ID of the payment is the idempotency key, which Stripe keeps for a day. For this key,
        Stripe repeats its first response, so any answer but a success is read again. Raise
        ProviderUnavailable.
        """
        named = str(payment.id)
        params: dict[str, Any] = {
            "amount": _cents(payment.amount_micros),
            "currency": CURRENCY,
            "customer": card.customer,
            "payment_method": card.payment_method,
            "payment_method_types": ["card"],
            "confirm": True,
            "off_session": True,
            "metadata": _metadata(payment),
        }
        options: stripe.RequestOptions = {"idempotency_key": f"charge-{named}"}
        try:
            intent = self.client.v1.payment_intents.create(params, options)  # type: ignore[arg-type]
        except stripe.CardError as error:
            asks = error.code in APPROVAL_CODES
            status = ChargeStatus.AUTHENTICATION_REQUIRED if asks else ChargeStatus.DECLINED
            return self.find_charge(payment, card.customer) or ChargeResponse(status)
        except stripe.InvalidRequestError as error:  # for example, the card was removed at Stripe
            _unavailable(error)
            return ChargeResponse(ChargeStatus.DECLINED)
        except stripe.StripeError as error:
            unavailable = _unavailable(error)
            answer = self.find_charge(payment, card.customer) if error.http_status else None
            if answer is None:
                raise unavailable from None
            return answer
        return self._answer(intent if intent.status == "succeeded" else self._now(intent), payment)

    def find_charge(self, payment: CardPayment, customer: str) -> ChargeResponse | None:
        """Return the current answer to an earlier charge; None if Stripe never got it."""
        about = {"customer": customer, "limit": 100}

        def find() -> stripe.PaymentIntent | None:
            pages = self.client.v1.payment_intents.list(about).auto_paging_iter()  # type: ignore[arg-type]
            return next((each for each in pages if _is_of(each, payment)), None)

        intent = _called(find)
        return None if intent is None else self._answer(intent, payment)

    def _answer(self, intent: stripe.PaymentIntent, payment: CardPayment) -> ChargeResponse:
        """Return an intent's answer. A failed charge is canceled, or it could be approved later."""
        problem = intent.last_payment_error
        asks = problem is None or problem.code in APPROVAL_CODES
        if intent.status not in ("succeeded", "processing", "canceled"):
            intent = self._canceled(intent)
        if intent.status == "processing":
            return ChargeResponse(ChargeStatus.PENDING)
        if intent.status == "canceled":
            status = ChargeStatus.AUTHENTICATION_REQUIRED if asks else ChargeStatus.DECLINED
            return ChargeResponse(status)
        if intent.status != "succeeded":
            log.error("charge %s is %s and cannot be canceled", intent.id, intent.status)
            raise ProviderUnavailable
        if intent.currency != CURRENCY or intent.amount != _cents(payment.amount_micros):
            log.error("charge %s of payment %s has another amount", intent.id, payment.id)
            return ChargeResponse(ChargeStatus.MISMATCH)
        receipt = Receipt(
            provider=STRIPE_PROVIDER, reference=intent.id, amount_micros=payment.amount_micros
        )
        return ChargeResponse(ChargeStatus.PAID, receipt)

    def _now(self, intent: stripe.PaymentIntent) -> stripe.PaymentIntent:
        """Return the current state of an intent. A repeated request repeats the first state."""
        return _called(lambda: self.client.v1.payment_intents.retrieve(intent.id))

    def _canceled(self, intent: stripe.PaymentIntent) -> stripe.PaymentIntent:
        """Cancel an intent, and return its state. One that ended meanwhile stays as it is."""
        try:
            return self.client.v1.payment_intents.cancel(intent.id)
        except stripe.InvalidRequestError:
            return self._now(intent)
        except stripe.StripeError as error:
            raise _unavailable(error) from None

    def remove_card(self, card: SavedCard) -> None:
        """Remove a saved card from the customer. A card that is gone changes nothing."""
        try:
            self.client.v1.payment_methods.detach(card.payment_method)
        except stripe.InvalidRequestError:
            pass
        except stripe.StripeError as error:
            raise _unavailable(error) from None

    def remove_cards(self, customer: str) -> None:
        """Remove all saved cards of a customer. A customer that is gone changes nothing."""
        about = {"customer": customer, "type": "card", "limit": 100}
        try:
            pages = self.client.v1.payment_methods.list(about).auto_paging_iter()  # type: ignore[arg-type]
            methods = [each.id for each in pages]
        except stripe.InvalidRequestError:
            return
        except stripe.StripeError as error:
            raise _unavailable(error) from None
        for method in methods:
            self.remove_card(SavedCard(customer=customer, payment_method=method))

    def payment_of(self, reference: str) -> UUID | None:
        """Return the ID of our card payment that a PaymentIntent belongs to, or None."""
        return _named(
            _called(lambda: self.client.v1.payment_intents.retrieve(reference)), PAYMENT_FIELD
        )

    def payments_since(self, moment: datetime) -> Iterator[tuple[Receipt, UUID, UUID | None]]:
        """Yield receipts since a time, newest first, with card payment and account."""
        pages = _called(lambda: self.client.v1.payment_intents.list(_since(moment)))  # type: ignore[arg-type]
        for each in _each(pages.auto_paging_iter()):
            named = _named(each, PAYMENT_FIELD)
            if named and each.status == "succeeded" and _in_dollars(each.id, each.currency):
                receipt = Receipt(
                    provider=self.name, reference=each.id, amount_micros=_micros(each.amount)
                )
                yield receipt, named, _named(each, ACCOUNT_FIELD)

    def receipt_url(self, reference: str) -> str | None:
        """Return the address of Stripe's receipt of a payment, or None if there is none."""
        charge = _called(lambda: self._with_charge(reference)).latest_charge
        return None if charge is None or isinstance(charge, str) else charge.receipt_url

    def _with_charge(self, reference: str) -> stripe.PaymentIntent:
        expanded = {"expand": ["latest_charge"]}
        return self.client.v1.payment_intents.retrieve(reference, expanded)  # type: ignore[arg-type]

    def refund(self, reference: str, return_id: str, amount_micros: int) -> None:
        """Refund a part of a payment. The ID of the return is the idempotency key.

        Raise RefundRefused, or ProviderUnavailable if the refund may have been made.
        """
        params: dict[str, Any] = {
            "payment_intent": reference,
            "amount": _cents(amount_micros),
            "metadata": {RETURN_FIELD: return_id},
        }
        options: stripe.RequestOptions = {"idempotency_key": f"refund-{return_id}"}
        try:
            self.client.v1.refunds.create(params, options)  # type: ignore[arg-type]
        except (stripe.InvalidRequestError, stripe.CardError) as error:
            _unavailable(error)
            raise RefundRefused(
                f"Stripe refuses the refund ({error.code or 'no reason given'}). The balance has "
                "the amount again. Check the payment in Stripe's dashboard."
            ) from None
        except stripe.StripeError as error:
            raise _unavailable(error) from None

    def refunds(self, reference: str) -> list[Refund]:
        """Return all refunds of a payment. Raise ProviderUnavailable."""
        found = _called(
            lambda: list(
                self.client.v1.refunds.list({"payment_intent": reference}).auto_paging_iter()
            )
        )
        return [_refund(each) for each in found if _in_dollars(each.id, each.currency)]

    def refunds_since(self, moment: datetime) -> Iterator[tuple[str, Refund]]:
        """Yield refunds since a time, newest first, each with its payment's reference."""
        pages = _called(lambda: self.client.v1.refunds.list(_since(moment)))  # type: ignore[arg-type]
        for each in _each(pages.auto_paging_iter()):
            intent = each.payment_intent
            reference = intent if isinstance(intent, str) or intent is None else intent.id
            if reference is not None and each.currency == CURRENCY:
                yield reference, _refund(each)

    def disputes_since(self, moment: datetime) -> Iterator[Dispute]:
        """Yield the disputes since a time, newest first. Raise ProviderUnavailable."""
        pages = _called(lambda: self.client.v1.disputes.list(_since(moment)))  # type: ignore[arg-type]
        for each in _each(pages.auto_paging_iter()):
            found = self._dispute(each)
            if found is not None:
                yield found

    def dispute(self, dispute_id: str) -> Dispute | None:
        """Return a dispute, or None if it is about no payment. Raise ProviderUnavailable."""
        return self._dispute(_called(lambda: self.client.v1.disputes.retrieve(dispute_id)))

    def _dispute(self, found: stripe.Dispute) -> Dispute | None:
        intent = found.payment_intent
        reference = intent if isinstance(intent, str) or intent is None else intent.id
        if reference is None or not _in_dollars(found.id, found.currency):
            return None
        status = {"won": DisputeStatus.WON, "lost": DisputeStatus.LOST}.get(
            found.status,
            DisputeStatus.OPEN
            if found.status in ("needs_response", "under_review")
            else DisputeStatus.NONE,
        )
        return Dispute(found.id, reference, _micros(found.amount), status)


@cache
def provider_of(key: str, api_base: str | None) -> StripeProvider:
    """Return the provider with a secret key, at another address than Stripe's if one is given."""
    client = stripe.StripeClient(
        key,
        base_addresses={"api": api_base} if api_base else {},
        max_network_retries=NETWORK_RETRIES,
        http_client=stripe.RequestsClient(timeout=TIMEOUT_SECONDS),
    )
    return StripeProvider(client)


def _called(call: Callable[[], T]) -> T:
    try:
        return call()
    except stripe.StripeError as error:
        raise _unavailable(error) from None


def _unavailable(error: stripe.StripeError) -> ProviderUnavailable:
    log.error(
        "a request to Stripe failed: %s, status %s, code %s, request %s",
        *(type(error).__name__, error.http_status, error.code, error.request_id),
    )
    return ProviderUnavailable()


def _checkout(session: stripe.checkout.Session, payment: CardPayment) -> Checkout:
    url = session.url
    if session.status == "expired":
        return Checkout(session.id, url, CheckoutStatus.EXPIRED)
    if session.payment_status != "paid":
        return Checkout(session.id, url, CheckoutStatus.OPEN)
    same = (
        session.client_reference_id == str(payment.id)
        and session.currency == CURRENCY
        and session.amount_total == _cents(payment.amount_micros)
    )
    intent = session.payment_intent
    reference = intent if isinstance(intent, str) or intent is None else intent.id
    if not same or reference is None:
        log.error(
            "checkout %s of payment %s has another amount, currency or reference; EcoLink did not "
            "add it to a balance",
            *(session.id, payment.id),
        )
        return Checkout(session.id, url, CheckoutStatus.MISMATCH)
    receipt = Receipt(
        provider=STRIPE_PROVIDER, reference=reference, amount_micros=payment.amount_micros
    )
    card = _saved_card(session, intent) if payment.saves_card else None
    return Checkout(session.id, url, CheckoutStatus.PAID, receipt, card)


def _saved_card(
    session: stripe.checkout.Session, intent: stripe.PaymentIntent | str | None
) -> SavedCard | None:
    customer = session.customer
    method = None if intent is None or isinstance(intent, str) else intent.payment_method
    customer_id = customer if isinstance(customer, str) or customer is None else customer.id
    method_id = method if isinstance(method, str) or method is None else method.id
    if customer_id is None or method_id is None:
        log.warning("checkout %s saved no card", session.id)
        return None
    return SavedCard(customer=customer_id, payment_method=method_id)


def _is_of(intent: stripe.PaymentIntent, payment: CardPayment) -> bool:
    return _named(intent, PAYMENT_FIELD) == payment.id


def _metadata(payment: CardPayment) -> dict[str, str]:
    return {PAYMENT_FIELD: str(payment.id), ACCOUNT_FIELD: str(payment.account_id)}


def _named(intent: stripe.PaymentIntent, field: str) -> UUID | None:
    try:
        return UUID(intent.metadata[field])
    except (KeyError, ValueError):
        return None


def _each(objects: Iterator[T]) -> Iterator[T]:
    try:
        yield from objects
    except stripe.StripeError as error:
        raise _unavailable(error) from None


def _since(moment: datetime) -> dict[str, Any]:
    return {"created": {"gte": int(moment.timestamp())}, "limit": 100}


def _refund(refund: stripe.Refund) -> Refund:
    return Refund(
        return_id=_return_id(refund),
        amount_micros=_micros(refund.amount),
        failed=refund.status in ("failed", "canceled"),
    )


def _return_id(refund: stripe.Refund) -> str:
    ours = refund.metadata is not None and RETURN_FIELD in refund.metadata
    return refund.metadata[RETURN_FIELD] if ours else refund.id  # type: ignore[index]


def _in_dollars(object_id: str, currency: str) -> bool:
    if currency != CURRENCY:
        log.error("%s is in %s; EcoLink ignores it", object_id, currency.upper())
    return currency == CURRENCY


def _cents(micros: int) -> int:
    assert micros % CENT_MICROS == 0
    return micros // CENT_MICROS


def _micros(cents: int) -> int:
    return cents * CENT_MICROS
