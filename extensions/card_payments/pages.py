"""Pages of payments by card, automatic top-ups and refunds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Form, Path, Query, Request
from fastapi.responses import RedirectResponse, Response

from domain.billing.card_payment import CardPaymentStatus
from domain.core.errors import Invalid
from extensions.card_payments import auto_top_ups, service
from extensions.card_payments.schemas import AutoTopUpRequest, AutoTopUpResponse, RefundRequest
from extensions.card_payments.stripe_provider import stripe_provider
from gateway.accounts.pages import Amount, Reference, changed, required, written
from gateway.backend import Backend, BackendOf
from gateway.billing.service import account_of
from gateway.http.access import Caller
from gateway.http.permissions import MayDownload, MayPay, MayRead, OperatorCredits
from gateway.http.read_your_writes import caught_up
from gateway.http.slow_work import slow
from gateway.web.rendering import fragment, is_htmx, page
from projections import ACCOUNTS

router = APIRouter()


@dataclass(frozen=True)
class AutoTopUpForm:
    """The fields of the form of automatic top-ups, and the button that was clicked."""

    threshold: Annotated[str, Form(max_length=40)] = ""
    amount: Annotated[str, Form(max_length=40)] = ""
    month_max: Annotated[str, Form(max_length=40)] = ""
    action: Annotated[Literal["set", "off", "remove"], Form()] = "set"


def shown_top_ups(backend: Backend, caller: Caller) -> AutoTopUpResponse | None:
    """Return the automatic top-ups for the billing page, or None without payments by card."""
    return None if stripe_provider() is None else auto_top_ups.auto_top_up(backend, caller)


def takes_refunds(_: Backend) -> bool:
    """Return True if operators can refund payments by card."""
    return stripe_provider() is not None


@router.get("/billing/payments/{payment_id}")
def show_payment(
    request: Request,
    payment_id: UUID,
    caller: MayRead,
    backend: BackendOf,
    cancelled: Annotated[bool, Query()] = False,
) -> Response:
    """Show a payment, and wait for its confirmation. htmx gets only the changing part."""
    payment = service.payment(backend, caller, payment_id)
    if payment.status is CardPaymentStatus.PAID:
        caught_up(backend, ACCOUNTS)
    shown = {"payment": payment, "cancelled": cancelled}
    if is_htmx(request):
        return fragment("card_payments/payment.html", account=account_of(backend, caller), **shown)
    return page(request, backend, caller, "card_payments/payment_page.html", **shown)


@router.get("/billing/receipts/{reference}")
@slow
def show_receipt(
    reference: Annotated[str, Path(max_length=100)], caller: MayDownload, backend: BackendOf
) -> Response:
    """Go to Stripe's receipt of a payment, which shows the card and the address of the payer."""
    return RedirectResponse(service.receipt_url(backend, caller, reference), 303)


@router.post("/billing/auto-top-up")
@slow
def change_auto_top_up(
    caller: MayPay, backend: BackendOf, entered: Annotated[AutoTopUpForm, Depends()]
) -> Response:
    """Turn automatic top-ups on or off, or remove the saved card."""
    problem = None
    try:
        match entered.action:
            case "set":
                wanted = AutoTopUpRequest(
                    threshold=entered.threshold, amount=entered.amount, month_max=entered.month_max
                )
                auto = auto_top_ups.set_auto_top_up(backend, caller, wanted)
            case "off":
                auto = auto_top_ups.turn_off(backend, caller)
            case "remove":
                auto = auto_top_ups.remove_card(backend, caller)
    except Invalid as error:
        auto, problem = auto_top_ups.auto_top_up(backend, caller), error
    shown = {"auto": auto, "entered": entered if problem else None, "problem": problem}
    return fragment("card_payments/auto_top_up.html", **shown)


@router.post("/ops/accounts/{account_id}/refunds")
@slow
def refund(
    account_id: UUID,
    caller: OperatorCredits,
    backend: BackendOf,
    amount: Amount = "",
    payment: Reference = "",
    reference: Reference = "",
) -> Response:
    """Refund a payment by card, once per reference of the refund."""
    wanted = RefundRequest(amount=amount, payment=required(payment), reference=required(reference))
    holder = service.refund(backend, caller, account_id, wanted)
    done = f"Refunded {written(amount)}. The balance is {holder.balance.text}."
    return changed(backend, caller, account_id, done)
