"""Payments by card of an account."""

from __future__ import annotations

from functools import partial
from uuid import UUID, uuid4

from domain.billing.card_payment import CardPayment, CardPaymentStatus
from domain.billing.payment import STRIPE_PROVIDER, Payment
from domain.billing.reference import reference_of
from domain.core.aggregate import Cause, because
from domain.core.errors import NotFound
from domain.core.identity import created_id, payment_id
from domain.core.money import payment_micros_of
from domain.use_cases.payments import Paying
from domain.use_cases.returns import Returning
from extensions.card_payments.payment_rows import CARD_PAYMENTS, newest_card_payments
from extensions.card_payments.payments import CardPayments
from extensions.card_payments.returns import CardReturns, card_returns
from extensions.card_payments.schemas import CardPaymentResponse, PaymentRequest, RefundRequest
from extensions.card_payments.stripe_provider import WebhookEvent, stripe_provider
from gateway.backend import Backend
from gateway.billing.schemas import AccountResponse
from gateway.billing.service import account_with_id
from gateway.http.access import Caller
from gateway.http.errors import Forbidden
from gateway.http.read_your_writes import caught_up
from gateway.schemas import Money, Page
from infrastructure.payments.provider import CardOrder
from projections import ACCOUNTS, BILLING_LEDGER
from projections.projection import Row

CARDS_DISABLED = "Payments by card are disabled. Ask your operator to top up this account."


def start(
    backend: Backend, caller: Caller, wanted: PaymentRequest, key: str | None, page_url: str
) -> CardPaymentResponse:
    """Start a payment. Calls with the same idempotency key start only one payment."""
    cards = cards_of(backend)
    amount_micros = payment_micros_of(wanted.amount, field="amount")
    id = created_id(caller.account_id, "card-payment", key or str(uuid4()))
    order = CardOrder(id, caller.account_id, amount_micros, wanted.save_card)
    with because(caller.cause(backend)):
        payment, url = cards.start(order, page_url)
    caught_up(backend, CARD_PAYMENTS)
    return _of(backend, payment).model_copy(update={"url": url})


def payment(backend: Backend, caller: Caller, id: UUID) -> CardPaymentResponse:
    """Return a payment of the caller. Raise NotFound."""
    found = backend.log.find(CardPayment, id)
    if found is None or found.account_id != caller.account_id:
        raise NotFound(f"Unknown payment {id}. See GET /api/account/payments.")
    return _of(backend, found)


def receipt_url(backend: Backend, caller: Caller, reference: str) -> str:
    """Return the address of Stripe's receipt of a payment of the caller."""
    provider = stripe_provider()
    found = backend.log.find(Payment, payment_id(STRIPE_PROVIDER, reference))
    if provider is not None and found is not None and found.account_id == caller.account_id:
        url = provider.receipt_url(reference)
        if url is not None:
            return url
    raise NotFound(f"There is no receipt of the payment {reference!r}.")


def list_payments(
    backend: Backend, caller: Caller, after: UUID | None, limit: int
) -> Page[CardPaymentResponse]:
    """Return the payments of the caller, newest first. Raise NotFound for an unknown `after`."""
    if after is not None:
        payment(backend, caller, after)
    with backend.pool.connection() as connection:
        read = partial(newest_card_payments, connection, caller.account_id, after)
        return Page[CardPaymentResponse].of(read, limit, _of_row)


def take_event(backend: Backend, event: WebhookEvent) -> None:
    """Bring a webhook's object to Stripe's current state, so that repeats change nothing."""
    returns = card_returns(backend.log)
    with because(Cause("service:stripe", f"stripe:{event.id}", backend.clock.now())):
        if event.dispute_id is not None:
            returns.settle_dispute(event.dispute_id)
        elif event.refunded_reference is not None:
            returns.settle_refunds(event.refunded_reference)
        elif event.payment_id is not None:
            returns.payments.settle(event.payment_id)


def refund(
    backend: Backend, operator: Caller, account_id: UUID, wanted: RefundRequest
) -> AccountResponse:
    """Refund a part of a payment, once per reference of the refund."""
    returns = CardReturns(Returning(backend.log), cards_of(backend))
    amount_micros = payment_micros_of(wanted.amount, field="amount")
    purpose = reference_of(wanted.reference)
    with because(operator.cause(backend)):
        returns.refund(account_id, wanted.payment.strip(), amount_micros, purpose)
    caught_up(backend, ACCOUNTS, BILLING_LEDGER)
    return account_with_id(backend, account_id)


def cards_of(backend: Backend) -> CardPayments:
    """Return the payments by card. Raise Forbidden if they are disabled."""
    provider = stripe_provider()
    if provider is None:
        raise Forbidden(CARDS_DISABLED)
    return CardPayments(Paying(backend.log), provider)


def _of(backend: Backend, payment: CardPayment) -> CardPaymentResponse:
    started = backend.log.first_event(payment.id)
    return CardPaymentResponse(
        id=payment.id,
        amount=Money.of(payment.amount_micros),
        status=payment.status,
        automatic=payment.automatic,
        failure=payment.failure,
        reference=payment.reference,
        started_at=started.timestamp,
    )


def _of_row(row: Row) -> CardPaymentResponse:
    names = ("id", "automatic", "failure", "reference", "started_at")
    return CardPaymentResponse(
        amount=Money.of(row["amount_micros"]),
        status=CardPaymentStatus(row["status"]),
        **{name: row[name] for name in names},
    )
