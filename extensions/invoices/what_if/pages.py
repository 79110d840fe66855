"""The page that shows charges at other prices."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from extensions.invoices.what_if.service import WhatIfQuery, what_if
from gateway.backend import BackendOf
from gateway.http.permissions import MayReadAll
from gateway.web.rendering import page

router = APIRouter(prefix="/ops")


@router.get("/what-if")
def show_what_if(
    request: Request, caller: MayReadAll, backend: BackendOf, query: Annotated[WhatIfQuery, Query()]
) -> Response:
    """Show the charges of a period under other prices."""
    shown = what_if(request, backend, caller, query)
    return page(request, backend, caller, "invoices/what_if.html", shown=shown)
