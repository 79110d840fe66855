"""Server-sent events of an answer, for clients that may leave, wait long, or read nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

SEND_SECONDS = 10.0
"""In which a client must take what it is sent, as a WebSocket's must; else it is left."""

WAITING_SECONDS = 15.0
"""Without an event, after which a comment is sent: proxies close what is silent for a minute."""

WAITING = ": waiting\n\n"
"""A comment, which clients ignore. Source: HTML Standard, 9.2.6, Interpreting an event stream."""


class EventStream(StreamingResponse):
    """Events; when the client leaves or takes no more of them, they are not made any further."""

    def __init__(self, events: AsyncIterator[str], end: Callable[[], Awaitable[None]]) -> None:
        self._end = end
        super().__init__(
            patiently(events), media_type="text/event-stream", headers={"cache-control": "no-store"}
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; raises ClientDisconnect for a client that does not take them."""

        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await send(message)
            except TimeoutError:
                raise ClientDisconnect from None

        try:
            await super().__call__(scope, receive, send_in_time)
        finally:
            await self._end()


async def patiently(events: AsyncIterator[str]) -> AsyncIterator[str]:
    """The events, and a comment each time that there was none for WAITING_SECONDS."""
    coming: asyncio.Future[str] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait({coming}, timeout=WAITING_SECONDS)
            if not done:
                yield WAITING
                continue
            try:
                event = coming.result()
            except StopAsyncIteration:
                return
            coming = None
            yield event
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
