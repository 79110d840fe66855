"""Routes of payments by card, refunds and automatic top-ups under /api."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request

from extensions.card_payments import auto_top_ups, service
from extensions.card_payments.schemas import (
    AutoTopUpRequest,
    AutoTopUpResponse,
    CardPaymentResponse,
    PaymentRequest,
    RefundRequest,
)
from gateway.backend import BackendOf
from gateway.billing.schemas import AccountResponse
from gateway.billing.service import PAYMENT_PAGES
from gateway.http.errors import refusals
from gateway.http.operations import Operation
from gateway.http.origin import base_url
from gateway.http.paging import LARGEST_PAGE, Limit
from gateway.http.permissions import MayPay, MayRead, OperatorCredits
from gateway.http.slow_work import slow
from gateway.schemas import Page

router = APIRouter(tags=["accounts"], route_class=Operation)


@router.post("/account/payments", status_code=201, responses=refusals(403, 409, 503))
@slow
def start_payment(
    payment: PaymentRequest,
    request: Request,
    caller: MayPay,
    backend: BackendOf,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> CardPaymentResponse:
    """Start a payment by card. Open the returned `url` in a browser to pay at Stripe.

    EcoLink adds the amount to your balance when Stripe confirms the payment. Requests with the same
    `Idempotency-Key` create only one payment. Returns 403 if payments by card are disabled.
    """
    page = f"{base_url(request)}{PAYMENT_PAGES}"
    return service.start(backend, caller, payment, idempotency_key, page)


@router.get("/account/payments", responses=refusals(404))
def list_payments(
    caller: MayRead,
    backend: BackendOf,
    after: Annotated[UUID | None, Query(description="Return payments after this one.")] = None,
    limit: Limit = LARGEST_PAGE,
) -> Page[CardPaymentResponse]:
    """List your payments by card, newest first."""
    return service.list_payments(backend, caller, after, limit)


@router.get("/account/payments/{payment_id}", responses=refusals(404))
def show_payment(payment_id: UUID, caller: MayRead, backend: BackendOf) -> CardPaymentResponse:
    """Show a payment by card."""
    return service.payment(backend, caller, payment_id)


@router.get("/account/auto-top-up")
def show_auto_top_up(caller: MayRead, backend: BackendOf) -> AutoTopUpResponse:
    """Show your automatic top-ups."""
    return auto_top_ups.auto_top_up(backend, caller)


@router.post("/account/auto-top-up", responses=refusals(403, 409))
def set_auto_top_up(
    wanted: AutoTopUpRequest, caller: MayPay, backend: BackendOf
) -> AutoTopUpResponse:
    """Turn automatic top-ups on, or change their rule.

    When your balance is below the threshold, EcoLink charges your saved card once, and again only
    after the first charge ended. If your bank declines a charge or asks you to approve it, EcoLink
    turns automatic top-ups off. Returns 409 without a saved card: start a payment with `save_card`
    first.
    """
    return auto_top_ups.set_auto_top_up(backend, caller, wanted)


@router.delete("/account/auto-top-up")
def turn_off_auto_top_up(caller: MayPay, backend: BackendOf) -> AutoTopUpResponse:
    """Turn automatic top-ups off. The card stays saved at Stripe."""
    return auto_top_ups.turn_off(backend, caller)


@router.delete("/account/card", responses=refusals(503))
@slow
def remove_card(caller: MayPay, backend: BackendOf) -> AutoTopUpResponse:
    """Remove your saved card from Stripe, and turn automatic top-ups off."""
    return auto_top_ups.remove_card(backend, caller)


@router.post("/accounts/{account_id}/refunds", responses=refusals(402, 403, 404, 409, 503))
@slow
def refund(
    account_id: UUID, wanted: RefundRequest, caller: OperatorCredits, backend: BackendOf
) -> AccountResponse:
    """Refund a payment by card, or a part of it.

    EcoLink takes the amount from the balance and returns it to the card. If Stripe does not
    respond, EcoLink returns 503 and makes the refund later.
    """
    return service.refund(backend, caller, account_id, wanted)
