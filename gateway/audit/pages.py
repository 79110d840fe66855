"""Pages for auditors: the search for events, and an event with its causes and its proof."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from domain.core.errors import NotFound
from gateway.audit.access import reading
from gateway.audit.kinds import groups
from gateway.audit.schemas import Logged, LoggedEvent
from gateway.audit.search import AskedOf, Order, search_of
from gateway.audit.service import Auditor
from gateway.backend import Backend, BackendOf
from gateway.http.paging import MOST_POSITION
from gateway.http.permissions import MayReadAll
from gateway.web.rendering import PRIVATE, page
from infrastructure.event_proofs import Evidence, SealStatus, evidence_of
from infrastructure.event_rows import read_rows
from infrastructure.seal_archive import SealArchive
from infrastructure.store import Connection

PAGE_EVENTS = 50
LISTED_EVENTS = 200
"""Causes and effects that are listed on a page, each."""

LONGEST_VALUE = 4_000
"""Characters of a field that are shown."""

Position = Annotated[int, Path(ge=1, le=MOST_POSITION)]

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


@router.get("/events/{position}")
def show_event(
    request: Request, caller: MayReadAll, backend: BackendOf, position: Position
) -> Response:
    """Show an event with its fields, causes, effects and proof."""
    with reading(backend) as connection:
        auditor = Auditor(connection)
        event = auditor.event(position)
        why = auditor.why(str(position)) if isinstance(event, LoggedEvent) else None
        evidence = _evidence(backend, connection, position)
    return page(
        request,
        backend,
        caller,
        "audit/event.html",
        event=event,
        why=why,
        evidence=evidence,
        statuses=SealStatus,
        listed=LISTED_EVENTS,
        longest=LONGEST_VALUE,
    )


@router.get("/events/{position}/proof.json")
def download_proof(caller: MayReadAll, backend: BackendOf, position: Position) -> Response:
    """Download the proof of an event as JSON. Raise NotFound if there is none."""
    with reading(backend) as connection:
        Auditor(connection).event(position)
        proof = _evidence(backend, connection, position).proof
    if proof is None:
        raise NotFound(f"Event {position} has no proof. A head follows within 10 seconds.")
    name = f"event-{position}-proof.json"
    headers = PRIVATE | {"content-disposition": f'attachment; filename="{name}"'}
    return Response(proof.model_dump_json(indent=1), headers=headers, media_type="application/json")


def _evidence(backend: Backend, connection: Connection, position: int) -> Evidence:
    (row,) = read_rows(connection, position - 1, 1)
    return evidence_of(row, SealArchive(backend.artifacts))
