"""Payments by card of an account."""

from __future__ import annotations

from functools import partial
from uuid import UUID, uuid4

from domain.billing.card_payment import CardPayment, CardPaymentStatus
from domain.core.aggregate import Cause, because
from domain.core.errors import NotFound
from domain.core.identity import created_id
from domain.core.money import payment_micros_of
from gateway.backend import Backend
from gateway.billing.schemas import CardPaymentAnswer
from gateway.http.access import Caller
from gateway.http.errors import Forbidden
from gateway.http.paging import Page
from gateway.http.read_your_writes import caught_up
from gateway.schemas import Money
from infrastructure.card_payments import CardPayments
from infrastructure.stripe_provider import WebhookEvent
from projections import CARD_PAYMENTS
from projections.card_payments import newest_card_payments
from projections.projection import Row

PAGES = "/billing/payments"
"""Address of the pages to which Stripe sends the browser, followed by the ID of the payment."""

CARDS_DISABLED = "Payments by card are disabled. Ask your operator to top up this account."


def start(
    backend: Backend, caller: Caller, amount: str, key: str | None, page_url: str
) -> CardPaymentAnswer:
    """Start a payment. Calls with the same idempotency key start only one payment.

    Raise Forbidden if payments by card are disabled, Invalid if the amount is invalid,
    CommandReused if the key was used for another amount, and ProviderUnavailable.
    """
    cards = _cards(backend)
    amount_micros = payment_micros_of(amount, field="amount")
    payment_id = created_id(caller.account_id, "card-payment", key or str(uuid4()))
    with because(caller.cause(backend)):
        payment, url = cards.start(payment_id, caller.account_id, amount_micros, page_url)
    caught_up(backend, CARD_PAYMENTS)
    return _of(backend, payment).model_copy(update={"url": url})


def payment(backend: Backend, caller: Caller, payment_id: UUID) -> CardPaymentAnswer:
    """Return a payment of the caller. Raise NotFound."""
    found = backend.log.find(CardPayment, payment_id)
    if found is None or found.account_id != caller.account_id:
        raise NotFound(f"Unknown payment {payment_id}. See GET /api/account/payments.")
    return _of(backend, found)


def list_payments(
    backend: Backend, caller: Caller, after: UUID | None, limit: int
) -> Page[CardPaymentAnswer]:
    """Return the payments of the caller, newest first. Raise NotFound for an unknown `after`."""
    if after is not None:
        payment(backend, caller, after)
    with backend.pool.connection() as connection:
        read = partial(newest_card_payments, connection, caller.account_id, after)
        return Page[CardPaymentAnswer].of(read, limit, _of_row)


def take_event(backend: Backend, event: WebhookEvent) -> None:
    """Bring the payment of a webhook to Stripe's current state. Ignore all other objects.

    EcoLink reads the state from Stripe, so repeated events, events out of order and events about
    objects of other systems change nothing. Raise ProviderUnavailable, so that Stripe retries.
    """
    cards, payment_id = _cards(backend), event.payment_id
    if payment_id is None:
        return
    with because(Cause("service:stripe", f"stripe:{event.id}", backend.clock.now())):
        cards.settle(payment_id)


def _cards(backend: Backend) -> CardPayments:
    cards = backend.card_payments
    if cards is None:
        raise Forbidden(CARDS_DISABLED)
    return cards


def _of(backend: Backend, payment: CardPayment) -> CardPaymentAnswer:
    started = backend.log.first_event(payment.id)
    return CardPaymentAnswer(
        id=payment.id,
        amount=Money.of(payment.amount_micros),
        status=payment.status,
        automatic=payment.automatic,
        failure=payment.failure,
        reference=payment.reference,
        started_at=started.timestamp,
    )


def _of_row(row: Row) -> CardPaymentAnswer:
    names = ("id", "automatic", "failure", "reference", "started_at")
    return CardPaymentAnswer(
        amount=Money.of(row["amount_micros"]),
        status=CardPaymentStatus(row["status"]),
        **{name: row[name] for name in names},
    )
