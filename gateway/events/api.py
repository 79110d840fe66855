"""Events after a sequence number, as pages of JSON or over a WebSocket.

`/api/events/stream` is a WebSocket. It sends missed events first, then new ones, one per message.
OpenAPI cannot describe WebSockets, so the description of `GET /api/events` documents it.
"""

from __future__ import annotations

import asyncio
from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Depends, Query, Request, WebSocket
from fastapi.concurrency import run_in_threadpool

from gateway.backend import Backend, BackendOf
from gateway.events.feed import EventFeed, Follower
from gateway.events.schemas import EventPage, EventsAsked, PageAsked
from gateway.events.service import interest_of, next_events
from gateway.http.access import Caller, holder_of, holder_shown, until_expiry, viewing
from gateway.http.errors import Unauthenticated, refusals
from gateway.http.operations import Operation
from gateway.http.permissions import READ, MayRead, declared
from gateway.http.streaming import GOING_AWAY, close, closed_on_error, sent_in_time, while_connected
from projections.account_events import EventFilter

STREAM_EVENTS = 100
SENT_AT_ONCE = 10
"""Messages sent to one client before it yields to other clients."""

SUBPROTOCOL, KEY_SUBPROTOCOL = "ecolink.events", "ecolink.key."
"""Subprotocols that a browser offers: the protocol, and a prefix of its API key. A browser cannot
send an Authorization header with a WebSocket."""

GOODBYE = "The gateway is stopping. Continue with after={}."

router = APIRouter(tags=["events"], route_class=Operation)


def feed_of(request: Request) -> EventFeed:
    return request.app.state.feed


@router.get("/events", responses=refusals(403, 404))
async def list_events(
    caller: MayRead,
    backend: BackendOf,
    feed: Annotated[EventFeed, Depends(feed_of)],
    asked: Annotated[PageAsked, Query()],
) -> EventPage:
    """List your account's events after a sequence number, in log order.

    To get the next page, pass `next_after` as `after`. Pages neither skip nor repeat events.

    `/api/events/stream?after=N` sends events over a WebSocket as they happen. It also accepts `job`
    and `all_accounts`. Each message is one event. Events since `after` come first. Send the API key
    as a Bearer token. Browsers send it as the subprotocol `ecolink.key.eco_...`, in addition to
    `ecolink.events`. A rejected WebSocket closes with code 4000 plus the HTTP status (4401, 4403,
    4404, 4422 or 4429). A client that reads too slowly gets 4408. Its close reason has the sequence
    number to resume from.
    """
    interest = await run_in_threadpool(interest_of, backend, caller, asked)
    return await next_events(feed, caller, interest, asked)


@router.websocket("/events/stream", dependencies=[declared(READ)])
async def stream_events(websocket: WebSocket) -> None:
    """Send the missed events, then new events as they happen."""
    offered: list[str] = websocket.scope["subprotocols"]
    await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
    feed: EventFeed = websocket.app.state.feed
    async with closed_on_error(websocket, unreachable=4503):
        asked = EventsAsked.model_validate(dict(websocket.query_params))
        secret = _secret(websocket, offered)
        caller, interest = await run_in_threadpool(_admitted, websocket, secret, asked)
        with (
            feed.backend.quotas.slots.hold("sockets", caller.holder_id),
            feed.follow(interest, asked.after, caller.key_id) as follower,
        ):
            # The feed reports only revocations from now on, so check for earlier ones.
            await run_in_threadpool(holder_of, feed.backend, secret, caller.request_id)
            async with until_expiry(feed.backend, caller):
                await while_connected(websocket, _send(websocket, feed, follower))


def _admitted(websocket: WebSocket, secret: str, asked: EventsAsked) -> tuple[Caller, EventFilter]:
    backend: Backend = websocket.app.state.backend
    caller = viewing(websocket, backend, holder_shown(websocket, backend, secret, str(uuid4())))
    READ.require(caller)
    backend.quotas.admit(caller.holder_id, changes=False)
    return caller, interest_of(backend, caller, asked)


async def _send(websocket: WebSocket, feed: EventFeed, follower: Follower) -> None:
    """Send each event. Raise Unauthenticated once the key is revoked."""
    sent = follower.position
    while not feed.closed:
        page = await follower.next_page(STREAM_EVENTS, None)
        if follower.revoked:
            raise Unauthenticated("This API key was revoked. Connect with another key.")
        for number, told in enumerate(page.events):
            if number % SENT_AT_ONCE == 0:
                await asyncio.sleep(0)  # sending does not yield while the socket buffer has room
            if not await sent_in_time(websocket, told.text, f"continue with after={sent}"):
                return
            sent = told.sequence
    await close(websocket, GOING_AWAY, GOODBYE.format(sent))


def _secret(websocket: WebSocket, offered: list[str]) -> str:
    """Return the API key of a WebSocket's handshake. Raise Unauthenticated if there is none."""
    scheme, _, secret = websocket.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and secret:
        return secret.strip()
    for protocol in offered:
        if protocol.startswith(KEY_SUBPROTOCOL):
            return protocol.removeprefix(KEY_SUBPROTOCOL)
    raise Unauthenticated(
        "The request has no API key. Send one as a Bearer token or as a subprotocol."
    )
