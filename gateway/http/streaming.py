"""Server-sent events and WebSockets whose clients may disconnect or stop reading."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request, WebSocket, WebSocketDisconnect
from pydantic import ValidationError
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import AppStatus, SendTimeoutError
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from domain.core.errors import DomainError
from gateway.http.errors import STORE_UNREACHABLE, status_of

SEND_SECONDS = 10.0
"""Maximum seconds to send one event, after which the gateway closes the stream."""

PING_SECONDS = 15.0
"""Seconds between keep-alive comments. Proxies close idle connections after about a minute."""

PING = "ping"
CLOSE_SECONDS = 5.0
REASON_BYTES = 123

GOING_AWAY, TOO_SLOW = 1012, 4408
"""Close codes: the gateway is stopping, or the client reads too slowly."""

T = TypeVar("T")

AppStatus.disable_automatic_graceful_drain()
# The library would cut off all streams when the gateway receives SIGTERM, without an error.


async def while_connected(client: Request | WebSocket, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`, or cancel it and raise ClientDisconnect."""

    async def disconnected() -> None:
        while not (await client.receive())["type"].endswith(".disconnect"):
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        # Unlike gather, wait keeps the message by which anyio recognizes its own cancellations.
        await asyncio.wait({working, leaving})


class EventStream(EventSourceResponse):
    """A response that streams events. It always calls `close` when it ends, even after an error."""

    def __init__(self, data: AsyncIterator[str], close: Callable[[], Awaitable[None]]) -> None:
        self._close = close
        super().__init__(
            data,
            sep="\n",
            ping=PING_SECONDS,
            ping_message_factory=lambda: ServerSentEvent(comment=PING, sep="\n"),
            send_timeout=SEND_SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            raise ClientDisconnect from None
        finally:
            await self._close()


@contextlib.asynccontextmanager
async def closed_on_error(websocket: WebSocket, unreachable: int) -> AsyncGenerator[None]:
    """Close with 4000 plus the error's status, or `unreachable` without the database."""
    try:
        yield
    except ClientDisconnect:
        pass
    except ValidationError as error:
        fields = "; ".join(f"{each['loc'][0]}: {each['msg']}" for each in error.errors())
        await close(websocket, 4422, fields)
    except DomainError as error:
        await close(websocket, 4000 + status_of(error), error.message)
    except STORE_UNREACHABLE:
        await close(websocket, unreachable, "The database is unreachable. Connect again soon.")


async def sent_in_time(websocket: WebSocket, text: str, advice: str) -> bool:
    """Send a message. Return False if the client has disconnected or does not read."""
    try:
        async with asyncio.timeout(SEND_SECONDS):
            await websocket.send_text(text)
    except TimeoutError:
        await close(websocket, TOO_SLOW, f"too slow; {advice}")
        return False
    except WebSocketDisconnect:
        return False
    return True


async def close(websocket: WebSocket, code: int, reason: str) -> None:
    """Close the WebSocket. The keep-alive ends it if the client does not read the close frame."""
    short = reason.encode()[:REASON_BYTES].decode(errors="ignore")
    with contextlib.suppress(TimeoutError, RuntimeError, WebSocketDisconnect):
        async with asyncio.timeout(CLOSE_SECONDS):
            await websocket.close(code, short)
