"""The page of alerts and silences, for operators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from extensions.alerts import service
from gateway.backend import BackendOf
from gateway.http.permissions import MayReadAll, OperatorDeploys
from gateway.web.rendering import fragment, is_htmx, page

Rule = Annotated[str, Form(max_length=200)]
Group = Annotated[str, Form(max_length=500)]

router = APIRouter(prefix="/ops/alerts")


@router.get("")
def show_alerts(request: Request, caller: MayReadAll, backend: BackendOf) -> Response:
    """Show the alerts that fire or were resolved, and the silences. htmx gets only these."""
    found = service.list_alerts(backend)
    if is_htmx(request):
        return fragment("alerts/list.html", alerts=found)
    return page(request, backend, caller, "alerts/page.html", alerts=found)


@router.post("/silences")
def silence(
    caller: OperatorDeploys,
    backend: BackendOf,
    duration: Annotated[str, Form(max_length=20)],
    rule: Rule = "",
    group: Group = "",
) -> Response:
    """Withhold the notices of a rule, of a group or of both for some time."""
    service.silence(backend, rule.strip(), group.strip(), duration)
    return fragment("alerts/list.html", alerts=service.list_alerts(backend))


@router.post("/silences/end")
def unsilence(
    caller: OperatorDeploys, backend: BackendOf, rule: Rule = "", group: Group = ""
) -> Response:
    """End a silence."""
    service.unsilence(backend, rule, group)
    return fragment("alerts/list.html", alerts=service.list_alerts(backend))
