"""Pages for auditors: the search for events."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from gateway.audit.access import reading
from gateway.audit.kinds import groups
from gateway.audit.schemas import Logged
from gateway.audit.search import AskedOf, Order, search_of
from gateway.audit.service import Auditor
from gateway.backend import BackendOf
from gateway.http.permissions import MayReadAll
from gateway.web.rendering import page

PAGE_EVENTS = 50

router = APIRouter(prefix="/audit")


@router.get("")
def show_search(
    request: Request, caller: MayReadAll, backend: BackendOf, asked: AskedOf
) -> Response:
    """Search the events of all accounts. Invalid fields are marked, and nothing is searched."""
    events: list[Logged] = []
    has_more = False
    with reading(backend) as connection:
        search = search_of(asked, connection)
        if not search.problems:
            events, has_more = Auditor(connection).search(
                search.selection,
                PAGE_EVENTS,
                newest_first=asked.newest_first,
                beyond=asked.beyond,
            )
    return page(
        request,
        backend,
        caller,
        "audit/search.html",
        asked=asked,
        orders=list(Order),
        groups=groups(),
        problems=search.problems,
        selection=search.selection,
        events=events,
        has_more=has_more,
    )
