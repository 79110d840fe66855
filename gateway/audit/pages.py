"""Pages for auditors: search, events with their causes and proofs, and past states of jobs."""

from __future__ import annotations

from bisect import bisect_right
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import RedirectResponse, Response

from domain.core.errors import NotFound
from domain.replay.past import Moment
from gateway.audit.access import reading
from gateway.audit.kinds import groups
from gateway.audit.schemas import Logged, LoggedEvent
from gateway.audit.search import AskedOf, Order, search_of
from gateway.audit.service import Auditor
from gateway.backend import Backend, BackendOf
from gateway.http.paging import MOST_POSITION
from gateway.http.permissions import MayReadAll
from gateway.schemas import JobId, job_name
from gateway.web.rendering import PRIVATE, fragment, is_htmx, page
from infrastructure.postgres.event_rows import read_rows
from infrastructure.postgres.store import Connection
from infrastructure.seals.archive import SealArchive
from infrastructure.seals.proofs import Evidence, SealStatus, evidence_of

PAGE_EVENTS = 50
LISTED_EVENTS = 200
"""Causes and effects that a page reads and lists, each."""

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
    with reading(backend, caller) as connection:
        search = search_of(asked, connection)
        if not search.problems:
            events, has_more = Auditor(connection).search(
                search.selection, PAGE_EVENTS, newest_first=asked.newest_first, beyond=asked.beyond
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
    with reading(backend, caller) as connection:
        auditor = Auditor(connection)
        event = auditor.event(position)
        why = auditor.why(str(position), LISTED_EVENTS) if isinstance(event, LoggedEvent) else None
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
    with reading(backend, caller) as connection:
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


@router.get("/jobs/{job}")
def show_job(
    request: Request,
    caller: MayReadAll,
    backend: BackendOf,
    job: JobId,
    at: Annotated[int | None, Query(ge=1, le=MOST_POSITION)] = None,
    number: Annotated[int | None, Query(ge=1)] = None,
) -> Response:
    """Show a job as of an event, by default the last one.

    `at` is the position of the event. `number` counts the job's events from 1, as the slider does;
    the address bar then has the position.
    """
    path = f"/audit/jobs/{job_name(job)}"
    with reading(backend, caller) as connection:
        auditor = Auditor(connection)
        positions = auditor.positions(job)
        if not positions:
            raise NotFound(f"The log has no job {job_name(job)}.")
        if number is not None:
            at = positions[min(number, len(positions)) - 1]
            if not is_htmx(request):
                return RedirectResponse(f"{path}?at={at}", 303)
        shown = {
            "job": auditor.job(job, Moment(event=at)),
            "address": path,
            "positions": positions,
            "number": bisect_right(positions, positions[-1] if at is None else at),
        }
        shown["event"] = auditor.event(positions[shown["number"] - 1])
    if number is not None:
        return fragment("audit/past.html", headers={"hx-replace-url": f"{path}?at={at}"}, **shown)
    return page(request, backend, caller, "audit/job.html", **shown)


@router.get("/accounts/{account_id}")
def show_account(
    request: Request,
    account_id: UUID,
    caller: MayReadAll,
    backend: BackendOf,
    at: Annotated[int | None, Query(ge=1, le=MOST_POSITION)] = None,
) -> Response:
    """Show an account as of the event at a position, by default now, from the log alone."""
    with reading(backend, caller) as connection:
        past = Auditor(connection).account(account_id, Moment(event=at))
    shown = {"past": past, "address": f"/audit/accounts/{account_id}"}
    return page(request, backend, caller, "audit/account.html", **shown)
