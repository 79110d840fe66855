"""Server-sent events that handle disconnects, long waits and clients that stop reading."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

SEND_SECONDS = 10.0
"""Timeout for sending an event, after which the gateway closes the stream."""

PING_SECONDS = 15.0
"""Interval of keep-alive comments. Proxies close idle connections after about a minute."""

PING = "ping"


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
        """Send the events. Raises ClientDisconnect if the client stops reading."""
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            raise ClientDisconnect from None
        finally:
            await self._close()
