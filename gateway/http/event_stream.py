"""Server-sent events for clients that disconnect, wait long or stop reading."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

SEND_SECONDS = 10.0
"""Time that a client has to accept an event before the gateway closes the stream."""

PING_SECONDS = 15.0
"""Interval of comments that keep the connection open. Proxies close silent ones after a minute."""

PING = "ping"


class EventStream(EventSourceResponse):
    """A stream of events. It calls `close` at its end, also after an error."""

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
        """Send the events. Raises ClientDisconnect if the client stops reading."""
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            raise ClientDisconnect from None
        finally:
            await self._close()
