"""The pages for operators. Auditors may read those that show the state of EcoLink."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any

from fastapi import APIRouter, Form, Path, Request
from fastapi.responses import Response

from gateway.backend import Backend, BackendOf
from gateway.http.paging import MOST_POSITION
from gateway.http.permissions import MayReadAll, OperatorDeploys
from gateway.operator.service import list_parked, replay_parked
from gateway.ops import alerts
from gateway.ops.health import health
from gateway.ops.money import platform_money
from gateway.web.rendering import fragment, is_htmx, page

LISTED_PARKED = 200

Rule = Annotated[str, Form(max_length=200)]
Group = Annotated[str, Form(max_length=500)]


class Period(IntEnum):
    """Days that the page of money shows."""

    WEEK = 7
    MONTH = 30
    QUARTER = 90
    YEAR = 365


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


@router.get("/money")
def show_money(
    request: Request, caller: MayReadAll, backend: BackendOf, days: Period = Period.MONTH
) -> Response:
    """Show revenue, payments and credits by day, and the accuracy of estimates."""
    shown = {"money": platform_money(backend, days), "count": days, "periods": list(Period)}
    return page(request, backend, caller, "ops/money_page.html", **shown)


def _parked(backend: Backend) -> dict[str, Any]:
    rows = list_parked(backend)
    return {"parked": rows[:LISTED_PARKED], "count": len(rows)}
