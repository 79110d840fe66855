"""The pages for operators. Auditors may read those that show the state of EcoLink."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from gateway.backend import Backend, BackendOf
from gateway.http.paging import MOST_POSITION
from gateway.http.permissions import MayReadAll, OperatorDeploys
from gateway.operator.service import list_parked, replay_parked
from gateway.ops.health import health
from gateway.ops.money import platform_money
from gateway.web.rendering import fragment, is_htmx, page, panel_data

LISTED_PARKED = 200


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
    shown = {"health": health(backend), **panel_data("ops.health", backend)}
    if is_htmx(request):
        return fragment("ops/health.html", **shown)
    return page(request, backend, caller, "ops/health_page.html", **shown)


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
