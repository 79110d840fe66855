"""The pages for operators. Auditors may read those that show the state of EcoLink."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from gateway.backend import BackendOf
from gateway.http.permissions import MayReadAll
from gateway.ops.health import health
from gateway.web.rendering import fragment, is_htmx, page

router = APIRouter(prefix="/ops")


@router.get("")
def show_health(request: Request, caller: MayReadAll, backend: BackendOf) -> Response:
    """Show the health of EcoLink. htmx gets only the changing part."""
    now = health(backend)
    if is_htmx(request):
        return fragment("ops/health.html", health=now)
    return page(request, backend, caller, "ops/health_page.html", health=now)
