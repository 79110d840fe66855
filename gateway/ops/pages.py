"""The pages for operators. Auditors may read those that show the state of EcoLink."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Form, Path, Query, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel, Field

from domain.core.errors import Invalid
from domain.core.money import payment_micros_of
from gateway.backend import Backend, BackendOf
from gateway.billing import service as billing
from gateway.billing.schemas import Credit, TopUp
from gateway.http.paging import MOST_POSITION
from gateway.http.permissions import MayReadAll, OperatorCredits, OperatorDeploys
from gateway.operator.service import list_parked, replay_parked
from gateway.ops import alerts
from gateway.ops.catalog import catalog_usage
from gateway.ops.health import health
from gateway.ops.money import platform_money
from gateway.schemas import Money
from gateway.web.addresses import Given
from gateway.web.rendering import fragment, is_htmx, page
from infrastructure.profiles import account_id_of
from projections.accounts import account as account_row

ACCOUNTS = "/ops/accounts"
LISTED_PARKED = 200
PAGE_ACCOUNTS = 100

Rule = Annotated[str, Form(max_length=200)]
Group = Annotated[str, Form(max_length=500)]
Amount = Annotated[str, Form(max_length=40)]
Reference = Annotated[str, Form(max_length=100)]


class Period(IntEnum):
    """Days that the page of money shows."""

    WEEK = 7
    MONTH = 30
    QUARTER = 90
    YEAR = 365


class Asked(BaseModel):
    """Query parameters of the list of accounts."""

    name: Annotated[str | None, Given] = Field(default=None, max_length=200)
    after: Annotated[UUID | None, Given] = None


router = APIRouter(prefix="/ops")


@router.get("")
def show_health(request: Request, caller: MayReadAll, backend: BackendOf) -> Response:
    """Show the health of EcoLink. htmx gets only the changing part."""
    now = health(backend)
    if is_htmx(request):
        return fragment("ops/health.html", health=now)
    return page(request, backend, caller, "ops/health_page.html", health=now)


@router.get("/parked")
def show_parked(request: Request, caller: MayReadAll, backend: BackendOf) -> Response:
    """Show the oldest parked events. htmx gets only the table."""
    if is_htmx(request):
        return fragment("ops/parked.html", **_parked(backend))
    return page(request, backend, caller, "ops/parked_page.html", **_parked(backend))


@router.post("/parked/{consumer}/{notification_id}/replay")
def replay(
    consumer: str,
    notification_id: Annotated[int, Path(ge=1, le=MOST_POSITION)],
    caller: OperatorDeploys,
    backend: BackendOf,
) -> Response:
    """Retry a parked event and all other parked events of its aggregate."""
    replay_parked(backend, consumer, notification_id)
    return fragment("ops/parked.html", **_parked(backend))


@router.get("/alerts")
def show_alerts(request: Request, caller: MayReadAll, backend: BackendOf) -> Response:
    """Show the alerts that fire or were resolved, and the silences. htmx gets only these."""
    found = alerts.list_alerts(backend)
    if is_htmx(request):
        return fragment("ops/alerts.html", alerts=found)
    return page(request, backend, caller, "ops/alerts_page.html", alerts=found)


@router.post("/alerts/silences")
def silence(
    caller: OperatorDeploys,
    backend: BackendOf,
    duration: Annotated[str, Form(max_length=20)],
    rule: Rule = "",
    group: Group = "",
) -> Response:
    """Withhold the notices of a rule, of a group or of both for some time."""
    alerts.silence(backend, rule.strip(), group.strip(), duration)
    return fragment("ops/alerts.html", alerts=alerts.list_alerts(backend))


@router.post("/alerts/silences/end")
def unsilence(
    caller: OperatorDeploys, backend: BackendOf, rule: Rule = "", group: Group = ""
) -> Response:
    """End a silence."""
    alerts.unsilence(backend, rule, group)
    return fragment("ops/alerts.html", alerts=alerts.list_alerts(backend))


@router.get("/accounts")
def show_accounts(
    request: Request, caller: MayReadAll, backend: BackendOf, asked: Annotated[Asked, Query()]
) -> Response:
    """List the accounts, oldest first. With a name or an ID, go to the account."""
    if asked.name:
        with backend.pool.connection() as connection:
            id = account_id_of(connection, asked.name)
            known = id is not None and account_row(connection, id) is not None
        if known:
            return RedirectResponse(f"{ACCOUNTS}/{id}", 303)
    listed = billing.list_accounts(backend, asked.after, PAGE_ACCOUNTS)
    shown = {"accounts": listed, "name": asked.name or "", "after": asked.after}
    return page(request, backend, caller, "ops/accounts_page.html", **shown)


@router.get("/accounts/{account_id}")
def show_account(
    request: Request, account_id: UUID, caller: MayReadAll, backend: BackendOf
) -> Response:
    """Show one account, with forms for a credit and a payment."""
    holder = billing.account_with_id(backend, account_id)
    return page(request, backend, caller, "ops/account_page.html", holder=holder, done=None)


@router.post("/accounts/{account_id}/credits")
def grant_credit(
    account_id: UUID,
    caller: OperatorCredits,
    backend: BackendOf,
    amount: Amount = "",
    reference: Reference = "",
) -> Response:
    """Grant a credit, once per reference."""
    credit = Credit(amount=amount, reference=_required(reference))
    holder = billing.grant_credit(backend, caller, account_id, credit)
    return fragment("ops/account.html", holder=holder, done=f"Granted {_written(amount)}.")


@router.post("/accounts/{account_id}/top-ups")
def confirm_top_up(
    account_id: UUID,
    caller: OperatorCredits,
    backend: BackendOf,
    amount: Amount = "",
    reference: Reference = "",
) -> Response:
    """Confirm a payment that was received outside EcoLink, once per reference."""
    payment = TopUp(amount=amount, reference=_required(reference))
    holder = billing.confirm_top_up(backend, caller, account_id, payment)
    return fragment("ops/account.html", holder=holder, done=f"Confirmed {_written(amount)}.")


@router.get("/money")
def show_money(
    request: Request, caller: MayReadAll, backend: BackendOf, days: Period = Period.MONTH
) -> Response:
    """Show revenue, payments and credits by day, and the accuracy of estimates."""
    shown = {"money": platform_money(backend, days), "count": days, "periods": list(Period)}
    return page(request, backend, caller, "ops/money_page.html", **shown)


@router.get("/catalog")
def show_catalog(request: Request, caller: MayReadAll, backend: BackendOf) -> Response:
    """Show the entries of the catalog, with the jobs that use each of them."""
    used = catalog_usage(backend)
    return page(request, backend, caller, "ops/catalog_page.html", catalog=used)


def _required(reference: str) -> str:
    if not reference.strip():
        raise Invalid("The reference is empty. Enter the purpose or number.", field="reference")
    return reference.strip()


def _written(amount: str) -> str:
    return Money.of(payment_micros_of(amount, field="amount")).text


def _parked(backend: Backend) -> dict[str, Any]:
    rows = list_parked(backend)
    return {"parked": rows[:LISTED_PARKED], "count": len(rows)}
