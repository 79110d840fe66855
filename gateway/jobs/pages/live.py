"""The WebSocket that updates the page of a job.

Each message is JSON. `sequence` is the last event that the page has after this message. `events`
has the sequences of the new timeline entries. `content` replaces parts of the page. `curve` and
`line` extend the chart and the log. If one of them is null, the page must reload it.
"""

from __future__ import annotations

from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, WebSocket
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, BeforeValidator, Field

from domain.core.errors import Invalid
from gateway.backend import Backend
from gateway.http.access import Caller, holder_of_session, until_expiry, viewing
from gateway.http.errors import Forbidden, Unauthenticated
from gateway.http.origin import same_origin
from gateway.http.paging import MOST_POSITION
from gateway.http.permissions import READ, declared
from gateway.http.sessions import session_in
from gateway.http.streaming import (
    GOING_AWAY,
    TOO_SLOW,
    close,
    closed_on_error,
    sent_in_time,
    while_connected,
)
from gateway.jobs.pages.live_jobs import TOO_OLD, LiveJobs, Viewer
from gateway.jobs.pages.watched_job import Seen
from gateway.jobs.service import own_job
from gateway.schemas import JobId
from infrastructure.accounts.sessions import Session
from infrastructure.training.measurements import Place

RECONNECTING = {
    "reconnectDelay": 300,
    "reconnectMaxDelay": 3000,
    "reconnectCodes": [1001, 1005, 1006, 1011, GOING_AWAY, 1013, 1014, TOO_SLOW, 4429, 4503],
}
"""Delays and close codes after which the page reconnects. 4503 is NotYetVisible."""

router = APIRouter(include_in_schema=False)


def _place(text: object) -> object:
    return text.split(".") if isinstance(text, str) else text


Number = Annotated[int, Field(ge=0, lt=2**31)]
PlaceAsked = Annotated[tuple[Number, Number], BeforeValidator(_place)]


class Asked(BaseModel):
    """The last event, step, evaluation and log line that the page already shows."""

    job_id: JobId
    after: int = Field(default=0, ge=0, le=MOST_POSITION)
    step: PlaceAsked = (0, 0)
    evaluation: PlaceAsked = (0, 0)
    line: PlaceAsked = (0, 0)


def place_text(place: Place) -> str:
    """Return a place (segment and number) as pages send it."""
    return f"{place[0]}.{place[1]}"


@router.websocket("/fine-tune/ftjob-{job_id}/live", dependencies=[declared(READ)])
async def live(websocket: WebSocket, job_id: str) -> None:
    """Send missed changes, then parts of the page as they change."""
    await websocket.accept()
    live_jobs: LiveJobs = websocket.app.state.live_jobs
    backend = live_jobs.feed.backend
    async with closed_on_error(websocket, unreachable=1013):
        if not same_origin(websocket):
            raise Forbidden("The request came from another site.")
        asked = Asked.model_validate({**websocket.query_params, "job_id": job_id})
        session, caller = await run_in_threadpool(_admitted, backend, websocket, asked.job_id)
        seen = Seen(asked.after, asked.step, asked.evaluation, asked.line)
        await live_jobs.feed.follows.wait()
        with (
            backend.quotas.slots.hold("sockets", caller.holder_id),
            live_jobs.view(asked.job_id, caller, session.session_id, seen) as viewer,
        ):
            async with until_expiry(backend, caller):
                await while_connected(websocket, _send(websocket, live_jobs, viewer))


def _admitted(backend: Backend, websocket: WebSocket, job_id: JobId) -> tuple[Session, Caller]:
    """Return the session and its caller, if that has the job."""
    session = session_in(websocket, backend)
    if session is None:
        raise Unauthenticated("Sign in again.")
    known = holder_of_session(backend, session, str(uuid4()))
    caller = viewing(websocket, backend, known)
    READ.require(caller)
    own_job(backend, caller, job_id)
    return session, caller


async def _send(websocket: WebSocket, live_jobs: LiveJobs, viewer: Viewer) -> None:
    if not await live_jobs.recall(viewer):
        raise Invalid(TOO_OLD)
    while not live_jobs.feed.closed:
        viewer.news.clear()
        if viewer.ended:
            raise Unauthenticated("Sign in again.")
        frame = viewer.next_frame()
        if frame is not None:
            if not await sent_in_time(websocket, frame, "connect again"):
                return
            continue
        await viewer.news.wait()
    await close(websocket, GOING_AWAY, "The gateway is stopping. Connect again.")
