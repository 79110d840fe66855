"""Events since a sequence number: as pages of JSON, with a wait for the next one, or as they come.

`/api/events/stream` is a WebSocket: first what the client missed, then what happens, one event a
message, as in the pages. OpenAPI has no words for it, so `GET /api/events` describes it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Depends, Query, Request, WebSocket, WebSocketDisconnect
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from domain.account import Role
from domain.errors import DomainError, Invalid
from gateway.access import Caller, CallerOf, holder_of
from gateway.answers import JobId
from gateway.api.jobs import own_job
from gateway.backend import Backend, BackendOf
from gateway.errors import (
    STORE_UNREACHABLE,
    Forbidden,
    Unauthenticated,
    refusals,
    status_of,
)
from gateway.event_answers import EventPage
from gateway.event_feed import EventFeed, Follower, read_log
from gateway.pages import MOST_POSITION
from projections.account_events import Interest

STREAM_EVENTS = 500
SEND_SECONDS = 10.0
CLOSE_SECONDS = 5.0
REASON_BYTES = 123

SUBPROTOCOL, KEY_SUBPROTOCOL = "ecolink.events", "ecolink.key."
"""What a browser offers, which cannot send an Authorization header: the name of what we speak, and
its API key behind the other."""

GOING_AWAY, TOO_SLOW = 1012, 4408
"""Close codes of a gateway that ends and of a client that takes nothing; the reason says after
which sequence to go on."""

router = APIRouter(tags=["events"])


class EventsAsked(BaseModel):
    """Which events a client asks for."""

    model_config = ConfigDict(extra="ignore")

    after: int = Field(
        default=0, ge=0, le=MOST_POSITION, description="Only events with a higher sequence."
    )
    job: JobId | None = Field(default=None, description="Only events about this job.")
    all_accounts: bool = Field(
        default=False, description="Events of every account and of the platform; operators only."
    )


class PageAsked(EventsAsked):
    """Which of them come in one answer."""

    limit: int = Field(default=100, ge=1, le=1000, description="At most so many.")
    wait: float = Field(
        default=0, ge=0, le=30, description="Seconds to wait for an event, if there is none yet."
    )


def feed_of(request: Request) -> EventFeed:
    """The feed of the application that serves this request."""
    return request.app.state.feed


@router.get("/events", responses=refusals(403, 404))
async def list_events(
    caller: CallerOf,
    backend: BackendOf,
    feed: Annotated[EventFeed, Depends(feed_of)],
    asked: Annotated[PageAsked, Query()],
) -> EventPage:
    """The events of the caller's account after a sequence, in the order of the log.

    The next page begins after `next_after`; so no event is missed, and none comes twice. Events
    can also be had as they happen, by WebSocket from `/api/events/stream?after=N`, with the same
    parameters `job` and `all_accounts`: each message is one event, those that were missed first. It
    takes the API key as a Bearer header, or, from a browser, as the subprotocol
    `ecolink.key.eco_...` beside `ecolink.events`. A socket that is refused closes with 4000 and the
    status that a request would have got (4401, 4403, 4404, 4422), and with 4408 if its client
    takes no messages; the reason then says after which sequence to go on.
    """
    interest = await run_in_threadpool(_interest, backend, caller, asked)
    page = await run_in_threadpool(read_log, backend, interest, asked.after, asked.limit)
    if asked.wait and not page.events and not page.has_more:
        with feed.follow(interest, page.position, caller.key_id) as follower:
            page = await follower.next_page(asked.limit, asked.wait)
    return EventPage(
        data=[told.answer for told in page.events],
        has_more=page.has_more,
        next_after=page.position,
    )


def _interest(backend: Backend, caller: Caller, asked: EventsAsked) -> Interest:
    """What a caller may see of what was asked; raises Forbidden, NotFound and Invalid."""
    if asked.all_accounts and caller.role is not Role.OPERATOR:
        raise Forbidden("only an operator may see the events of all accounts")
    if asked.job is not None and not asked.all_accounts:
        own_job(backend, caller, asked.job)
    head = backend.log.recorder.max_notification_id() or 0
    if asked.after > head:
        raise Invalid(f"the log ends at {head}; nothing can follow {asked.after}", field="after")
    return Interest(None if asked.all_accounts else caller.account_id, asked.job)


@router.websocket("/events/stream")
async def stream_events(websocket: WebSocket) -> None:
    """Events as they happen, after those that were missed."""
    offered: list[str] = websocket.scope["subprotocols"]
    await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
    feed: EventFeed = websocket.app.state.feed
    try:
        asked = EventsAsked.model_validate(dict(websocket.query_params))
        secret = _secret(websocket, offered)
        caller, interest = await run_in_threadpool(_admitted, feed.backend, secret, asked)
        with feed.follow(interest, asked.after, caller.key_id) as follower:
            # From here on the feed tells of a revocation; of one before it, nobody did.
            await run_in_threadpool(holder_of, feed.backend, secret, caller.request_id)
            await _stream(websocket, feed, follower)
    except ValidationError as error:
        fields = "; ".join(f"{each['loc'][0]}: {each['msg']}" for each in error.errors())
        await _close(websocket, 4422, fields)
    except DomainError as error:
        await _close(websocket, 4000 + status_of(error), error.message)
    except STORE_UNREACHABLE:
        await _close(websocket, 4503, "the database cannot be reached now; connect again soon")


def _admitted(backend: Backend, secret: str, asked: EventsAsked) -> tuple[Caller, Interest]:
    caller = holder_of(backend, secret, str(uuid4()))
    return caller, _interest(backend, caller, asked)


async def _stream(websocket: WebSocket, feed: EventFeed, follower: Follower) -> None:
    """Send until the client is gone, or may get no more."""
    sending = asyncio.create_task(_send(websocket, feed, follower))
    listening = asyncio.create_task(_until_gone(websocket))
    try:
        await asyncio.wait({sending, listening}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        sending.cancel()
        listening.cancel()
        await asyncio.wait({sending, listening})
    if not sending.cancelled() and (error := sending.exception()) is not None:
        raise error


async def _until_gone(websocket: WebSocket) -> None:
    """What a client says means nothing here; only that it goes."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


async def _send(websocket: WebSocket, feed: EventFeed, follower: Follower) -> None:
    """Send each event; raises Unauthenticated once the key is revoked."""
    sent = follower.position
    while not feed.closed:
        page = await follower.next_page(STREAM_EVENTS, None)
        if follower.revoked:
            raise Unauthenticated("this API key was revoked")
        for told in page.events:
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await websocket.send_text(told.text)
            except TimeoutError:
                await _close(websocket, TOO_SLOW, f"too slow; go on with after={sent}")
                return
            except WebSocketDisconnect:
                return
            sent = told.sequence
    await _close(websocket, GOING_AWAY, f"the gateway ends; go on with after={sent}")


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    """Close; a client that does not even take that is left to the keepalive."""
    short = reason.encode()[:REASON_BYTES].decode(errors="ignore")
    with contextlib.suppress(TimeoutError, RuntimeError, WebSocketDisconnect):
        async with asyncio.timeout(CLOSE_SECONDS):
            await websocket.close(code, short)


def _secret(websocket: WebSocket, offered: list[str]) -> str:
    """The API key that came with a WebSocket's handshake; raises Unauthenticated."""
    scheme, _, secret = websocket.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and secret:
        return secret.strip()
    for protocol in offered:
        if protocol.startswith(KEY_SUBPROTOCOL):
            return protocol.removeprefix(KEY_SUBPROTOCOL)
    raise Unauthenticated("send an API key as a Bearer header or as a subprotocol")
