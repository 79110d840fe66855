"""Limits on the connections of an HTTP server and on slow clients.

uvicorn limits only idle connections. A client that sends half of a request head, or stalls in a
body, keeps its connection open forever. Enough such clients exhaust the file descriptors of the
process, which then accepts no more connections.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextvars import Context
from functools import partial
from ipaddress import ip_address
from typing import Any, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from domain.core.target import Network
from infrastructure.http.limits import Limits

log = logging.getLogger("connections")

SPARE_FILES = 256
"""Open files reserved for the database, the artifact store and the process itself."""

MAX_FILES = 65_536
REPORT_SECONDS = 10.0

TICKS_PER_SWEEP = 10
"""uvicorn's server ticks ten times per second."""


def raise_file_limit() -> int:
    """Raise the limit on open files of this process as far as allowed. Return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return MAX_FILES if soft == resource.RLIM_INFINITY else soft


def _answer(status: str) -> bytes:
    return (
        f"HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\n"
        f"content-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n"
    ).encode()


TOO_MANY = _answer("503 Service Unavailable")
TOO_SLOW = _answer("408 Request Timeout")


class ConnectionGuard:
    """A guard that counts the connections of one server and closes those of slow clients."""

    def __init__(
        self,
        limits: Limits,
        *,
        exempt: Sequence[Network] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create a guard.

        `exempt` contains the networks of trusted proxies, which have many clients.
        """
        self.limits, self.clock = limits, clock
        self._exempt = exempt
        self._peers: dict[asyncio.BaseTransport, str] = {}
        self._of_address: Counter[str] = Counter()
        self._watched: set[GuardedHttp | GuardedWebSocket] = set()
        self._waiting: dict[str, dict[GuardedHttp, None]] = {}
        """Connections without a complete request by address, oldest first."""
        self._ended: Counter[str] = Counter()
        self._reported = clock()
        files = raise_file_limit()
        self._max_connections = min(limits["connections"], max(1, files - SPARE_FILES))

    def __len__(self) -> int:
        return len(self._peers)

    def protocols(self) -> dict[str, Any]:
        """Return the arguments of uvicorn's Config that apply this guard to a server."""
        return {
            "http": cast(type[asyncio.Protocol], partial(GuardedHttp, self)),
            "ws": cast(type[asyncio.Protocol], partial(GuardedWebSocket, self)),
            "timeout_keep_alive": self.limits["idle_seconds"],
        }

    def admit(self, transport: asyncio.BaseTransport) -> bool:
        """Count a new connection. Return False if there are too many connections.

        If a limit is reached, the guard makes room by closing the oldest connection without a
        complete request.
        """
        peer = str((transport.get_extra_info("peername") or ("",))[0])
        exempt = self._is_exempt(peer)
        limit = self._max_connections if exempt else self.limits["address_connections"]
        full = self._of_address[peer] >= limit and not self._make_room(peer)
        if full or (len(self._peers) >= self._max_connections and not self._make_room(None)):
            self._ended["refused"] += 1
            return False
        self._peers[transport] = peer
        self._of_address[peer] += 1
        return True

    def _is_exempt(self, peer: str) -> bool:
        try:
            address = ip_address(peer)
        except ValueError:  # the server listens on a Unix socket
            return False
        return any(address in network for network in self._exempt)

    def release(self, transport: asyncio.BaseTransport) -> None:
        """Stop counting a connection that was closed."""
        peer = self._peers.pop(transport, None)
        if peer is not None:
            self._of_address[peer] -= 1
            if not self._of_address[peer]:
                del self._of_address[peer]

    def waits(self, protocol: GuardedHttp) -> None:
        """Record that a connection has no complete request."""
        peer = self._peers.get(protocol.transport)
        if peer is not None:
            self._waiting.setdefault(peer, {})[protocol] = None

    def works(self, protocol: GuardedHttp) -> None:
        """Record that a connection has a complete request, or was closed."""
        peer = self._peers.get(protocol.transport, "")
        waiting = self._waiting.get(peer, {})
        waiting.pop(protocol, None)
        if not waiting:
            self._waiting.pop(peer, None)

    def _make_room(self, peer: str | None) -> bool:
        """Close the connection of `peer` that has waited longest. None selects the busiest address.

        Return False if there is no such connection.
        """
        if peer is None:
            peer = max(self._waiting, key=self._of_address.__getitem__, default="")
        oldest = next(iter(self._waiting.get(peer, {})), None)
        if oldest is None:
            return False
        self.works(oldest)
        self.release(oldest.transport)
        oldest.transport.abort()
        self._ended["replaced without a complete request"] += 1
        return True

    def watch(self, protocol: GuardedHttp | GuardedWebSocket) -> None:
        """Check a connection in every sweep."""
        self._watched.add(protocol)

    def leave(self, protocol: GuardedHttp | GuardedWebSocket) -> None:
        """Stop checking a connection."""
        self._watched.discard(protocol)

    def sweep(self) -> None:
        """Close slow connections. Log their number at most once every ten seconds."""
        now = self.clock()
        for protocol in list(self._watched):
            if reason := protocol.overdue(now):
                self._ended[reason] += 1
        if self._ended and now - self._reported >= REPORT_SECONDS:
            counts = ", ".join(f"{count} {reason}" for reason, count in self._ended.items())
            log.warning("ended connections: %s; %d are open", counts, len(self))
            self._ended.clear()
            self._reported = now


class _Writes:
    """A detector of clients that do not read."""

    def __init__(self) -> None:
        self._size, self._since = 0, 0.0

    def stalled(self, transport: asyncio.Transport, now: float, seconds: float) -> bool:
        """Return True if the client has read nothing for `seconds`."""
        size = transport.get_write_buffer_size()
        if size == 0 or size != self._size:
            self._size, self._since = size, now
            return False
        return now - self._since > seconds


class GuardedHttp(H11Protocol):
    """An HTTP connection with time limits for the head, the body and the client's reads.

    Each request has a new context. If a request makes the connection read again, asyncio receives
    all later bytes in the context of that request, and a proxy sends those of other accounts.
    """

    def __init__(self, guard: ConnectionGuard, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._guard = guard
        self._admitted = False
        self._head_since: float | None = None
        self._body_since: float | None = None
        self._received = 0
        self._writes = _Writes()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit the connection, or respond with 503 and close it."""
        self._admitted = self._guard.admit(transport)
        if not self._admitted:
            transport.write(TOO_MANY)
            transport.close()
            return
        super().connection_made(transport)
        self._head_since = self._guard.clock()
        self._guard.watch(self)
        self._guard.waits(self)

    def data_received(self, data: bytes) -> None:
        """Receive bytes. Record when an incomplete head or body started."""
        if not self._admitted:
            return
        now = self._guard.clock()
        if self._head_since is None and self.conn.their_state is h11.IDLE:
            self._head_since = now
        self._received += len(data)
        Context().run(super().data_received, data)
        if self.conn.their_state is not h11.IDLE:
            self._head_since = None
            self._guard.works(self)
        if self.conn.their_state is not h11.SEND_BODY:
            self._body_since = None
        elif self._body_since is None:
            self._body_since, self._received = now, len(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting and checking the connection."""
        if not self._admitted:
            return
        self._guard.works(self)
        self._guard.release(self.transport)
        self._guard.leave(self)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request, or start it if it is already here."""
        Context().run(super().on_response_complete)
        if self.conn.their_state is h11.IDLE:
            self._guard.waits(self)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Turn the connection into a WebSocket, which the guard still counts."""
        self._guard.leave(self)
        self._guard.works(self)
        super().handle_websocket_upgrade(event)

    def overdue(self, now: float) -> str | None:
        """Close the connection if the client is slow. Return the reason, or None."""
        limits = self._guard.limits
        if self._head_since is not None and now - self._head_since > limits["head_seconds"]:
            self._refuse()
            return "without a complete request"
        if self._body_is_slow(now):
            self._refuse()
            return "too slow with a body"
        if self._writes.stalled(self.transport, now, limits["write_stall_seconds"]):
            self.transport.abort()
            return "not reading responses"
        return None

    def _body_is_slow(self, now: float) -> bool:
        """Return True if the client sent too little in a window that has ended.

        The window excludes the time in which the server does not read.
        """
        if self._body_since is None:
            return False
        if self.flow.read_paused:
            self._body_since, self._received = now, 0
            return False
        seconds, limits = now - self._body_since, self._guard.limits
        if seconds < limits["body_window_seconds"]:
            return False
        slow = self._received < seconds * limits["body_bytes_per_second"]
        self._body_since, self._received = now, 0
        return slow

    def _refuse(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            unanswered = self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE)
        else:
            unanswered = not self.cycle.response_started
        if unanswered:
            self.transport.write(TOO_SLOW)
        self.transport.close()


class GuardedWebSocket(WebSocketsSansIOProtocol):
    """A WebSocket, which counts as a connection. uvicorn's pings detect dead WebSockets."""

    def __init__(self, guard: ConnectionGuard, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._guard = guard
        self._writes = _Writes()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Watch a connection that is already admitted."""
        super().connection_made(transport)
        self._guard.watch(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting and checking the connection."""
        self._guard.release(self.transport)
        self._guard.leave(self)
        super().connection_lost(exc)

    def overdue(self, now: float) -> str | None:
        """Close the connection if the client does not read. Return the reason, or None."""
        if self._writes.stalled(self.transport, now, self._guard.limits["write_stall_seconds"]):
            self.transport.abort()
            return "not reading messages"
        return None


class GuardedServer(uvicorn.Server):
    """A server that sweeps its connections every second."""

    def __init__(self, config: uvicorn.Config, guard: ConnectionGuard) -> None:
        super().__init__(config)
        self._guard = guard

    async def on_tick(self, counter: int) -> bool:
        """Sweep the connections on every tenth tick."""
        if counter % TICKS_PER_SWEEP == 0:
            self._guard.sweep()
        return await super().on_tick(counter)
