"""Limits on connections and on slow clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import httpx
import pytest
import uvicorn
from websockets.asyncio.client import connect

from domain.core.target import Network
from infrastructure.extensions import check_settings
from infrastructure.http.connection_guard import ConnectionGuard, GuardedHttp, GuardedServer
from infrastructure.http.limits import Limits
from infrastructure.settings import Settings

HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
UPGRADE = (
    b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
DEADLINE_SECONDS = 60.0

_request: ContextVar[int | None] = ContextVar("request", default=None)
"""Number of the request that set it."""


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Guarded:
    """A server that answers with a body's length and records its requests."""

    def __init__(self, limits: Limits, exempt: Sequence[Network]) -> None:
        self.clock = Clock()
        self.guard = ConnectionGuard(limits, exempt=exempt, clock=self.clock)
        self.port = 0
        self.writers: list[asyncio.StreamWriter] = []
        self.received = 0
        """Bytes of bodies."""
        self.cut_off = 0
        """Requests whose client disconnected within the body."""
        self.inherited: list[int | None] = []
        """The request whose context each request found at its start."""

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.inherited.append(_request.get())
        _request.set(len(self.inherited))
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (await receive())["type"] != "websocket.disconnect":
                pass
            return
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.cut_off += 1
                return
            size += len(message["body"])
            self.received += len(message["body"])
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(size).encode()})

    def bytes_seen(self) -> int:
        """Bytes that the only connection has received."""
        (connection,) = self.guard._watched
        assert isinstance(connection, GuardedHttp)
        return connection._received

    async def connect(self, sent: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)  # else it is closed as garbage
        writer.write(sent)
        await writer.drain()
        return reader, writer

    async def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.guard.sweep()


@asynccontextmanager
async def guarded(*exempt: Network, **changed: int) -> AsyncIterator[Guarded]:
    server_side = Guarded(Limits(changed), exempt)
    config = uvicorn.Config(
        server_side.app,
        port=0,
        interface="asgi3",
        timeout_graceful_shutdown=1,
        lifespan="off",
        log_config=None,
        **{**server_side.guard.protocols(), "timeout_keep_alive": 600},
    )
    server = GuardedServer(config, server_side.guard)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server_side.port = listener.getsockname()[1]
        running = asyncio.create_task(server.serve([listener]))
        try:
            await eventually(lambda: server.started)
            yield server_side
        finally:
            server.should_exit = True
            await running


async def eventually(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def in_time(what: Awaitable[Any]) -> Any:
    async with asyncio.timeout(DEADLINE_SECONDS):
        return await what


def test_idle_connections_stay_open_longer_than_clients_reuse_them() -> None:
    """If both ended at the same time, a request on a reused connection would fail at random."""
    openai_and_ours = httpx.Limits().keepalive_expiry
    assert openai_and_ours is not None
    assert Limits({})["idle_seconds"] > 2 * openai_and_ours


async def test_an_incomplete_head_is_closed_after_its_deadline() -> None:
    async with guarded(head_seconds=10) as server:
        reader, _ = await server.connect(b"GET / HTTP/1.1\r\nhost: x\r\n")
        silent, _ = await server.connect()
        await eventually(lambda: len(server.guard) == 2)
        await server.pass_time(9)
        assert len(server.guard) == 2
        await server.pass_time(2)
        assert (await in_time(reader.read())).startswith(b"HTTP/1.1 408 ")
        assert (await in_time(silent.read())).startswith(b"HTTP/1.1 408 ")
        await eventually(lambda: len(server.guard) == 0)


async def test_a_slow_head_has_the_same_deadline() -> None:
    async with guarded(head_seconds=10) as server:
        reader, writer = await server.connect(b"GET / HTTP/1.1\r\n")
        await eventually(lambda: len(server.guard) == 1)
        for _ in range(10):
            seen = server.bytes_seen()
            writer.write(b"x")
            await eventually(lambda: server.bytes_seen() > seen)  # noqa: B023
            await server.pass_time(1)
        await server.pass_time(1)
        assert b" 408 " in await in_time(reader.read())


async def test_the_next_request_of_a_connection_has_a_deadline_of_its_own() -> None:
    async with guarded(head_seconds=10) as server:
        reader, writer = await server.connect(GET)
        assert b" 200 " in await in_time(reader.readuntil(b"0\r\n\r\n"))
        await server.pass_time(60)
        writer.write(b"GET / HTT")
        await writer.drain()
        await eventually(lambda: server.bytes_seen() > len(GET))
        await server.pass_time(9)
        assert not reader.at_eof()
        await server.pass_time(2)
        assert b" 408 " in await in_time(reader.read())


async def test_a_stalled_body_is_closed() -> None:
    async with guarded(body_window_seconds=10, body_bytes_per_second=100) as server:
        reader, _ = await server.connect(HEAD % 10_000 + b"x" * 50)
        await eventually(lambda: server.received == 50)
        await server.pass_time(11)
        assert b" 408 " in await in_time(reader.read())
        await eventually(lambda: server.cut_off == 1 and len(server.guard) == 0)


async def test_a_slow_but_steady_body_is_accepted() -> None:
    async with guarded(body_window_seconds=10, body_bytes_per_second=100) as server:
        reader, writer = await server.connect(HEAD % 6_000)
        for piece in range(1, 5):
            writer.write(b"x" * 1_500)
            await writer.drain()
            await eventually(lambda: server.received == piece * 1_500)  # noqa: B023
            await server.pass_time(11)
        assert b"6000" in await in_time(reader.readuntil(b"6000"))


@pytest.mark.parametrize("limit", ["connections", "address_connections"])
async def test_half_open_connections_make_room_for_requests(limit: str) -> None:
    async with guarded(**{limit: 3}) as server:
        reader, _ = await server.connect(b"GET / HTTP/1.1\r\n")
        await eventually(lambda: len(server.guard) == 1)
        for _ in range(20):
            await server.connect(b"GET / HTTP/1.1\r\n")
        await in_time(closed(reader))
        for _ in range(5):
            reader, _ = await server.connect(GET)
            assert b" 200 " in await in_time(reader.readuntil(b"0\r\n\r\n"))
        assert len(server.guard) <= 3


async def closed(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        await reader.read()


async def test_an_address_has_a_connection_limit() -> None:
    async with guarded(address_connections=3) as server:
        kept = [await server.connect(HEAD % 10 + b"x") for _ in range(3)]
        await eventually(lambda: server.received == 3)
        reader, _ = await server.connect(GET)
        assert (await in_time(reader.read())).startswith(b"HTTP/1.1 503 ")
        kept[0][1].close()
        await eventually(lambda: len(server.guard) == 2)
        reader, _ = await server.connect(GET)
        assert b" 200 " in await in_time(reader.readuntil(b"0\r\n\r\n"))


@pytest.mark.full
@pytest.mark.parametrize(
    ("proxies", "limited"),
    [("127.0.0.1", False), ("127.0.0.0/8", False), ("10.0.0.0/8, ::/0", True), ("", True)],
)
async def test_a_trusted_proxy_has_no_connection_limit_of_an_address(
    proxies: str, limited: bool
) -> None:
    trusted = Settings(trusted_proxies=proxies).proxies
    async with guarded(*trusted, address_connections=1) as server:
        await server.connect(HEAD % 10 + b"x")
        await eventually(lambda: server.received == 1)
        reader, _ = await server.connect(GET)
        status = b" 503 " if limited else b" 200 "
        assert status in await in_time(reader.readuntil(b"\r\n"))


async def test_a_websocket_counts_as_a_connection_until_it_is_closed() -> None:
    async with guarded(connections=1) as server:
        async with connect(f"ws://127.0.0.1:{server.port}/", proxy=None):
            assert len(server.guard) == 1
            await server.pass_time(1000)
            reader, _ = await server.connect(GET)
            assert b" 503 " in await in_time(reader.read())
        await eventually(lambda: len(server.guard) == 0)


@pytest.mark.parametrize(
    "size", [1, 300_000], ids=["a short body", "a body for which the server pauses"]
)
async def test_each_request_of_a_connection_has_a_context_of_its_own(size: int) -> None:
    async with guarded() as server:
        reader, writer = await server.connect(HEAD % size + b"x" * size)
        await in_time(reader.readuntil(b"\r\n0\r\n\r\n"))
        for more in (GET, GET + GET, GET + UPGRADE):
            known = len(server.inherited)
            writer.write(more)
            await eventually(lambda: len(server.inherited) == known + more.count(b"GET"))  # noqa: B023
        assert server.inherited == [None] * 6


async def test_a_malformed_request_is_logged_outside_the_context_of_the_last_one() -> None:
    class Logged(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(_request.get())

    seen: list[int | None] = []
    handler, uvicorn_log = Logged(logging.WARNING), logging.getLogger("uvicorn.error")
    uvicorn_log.addHandler(handler)
    try:
        async with guarded() as server:
            reader, writer = await server.connect(HEAD % 300_000 + b"x" * 300_000)
            await in_time(reader.readuntil(b"\r\n0\r\n\r\n"))
            writer.write(b"malformed\r\n\r\n")
            assert b" 400 " in await in_time(reader.read())
    finally:
        uvicorn_log.removeHandler(handler)
    assert seen == [None]


async def test_refusals_are_logged_together(caplog: pytest.LogCaptureFixture) -> None:
    async with guarded(address_connections=1) as server:
        await server.connect(HEAD % 10 + b"x")
        await eventually(lambda: server.received == 1)
        for _ in range(20):
            reader, _ = await server.connect()
            await in_time(reader.read())
        with caplog.at_level(logging.WARNING, "connections"):
            await server.pass_time(11)
            await server.pass_time(1)
    lines = [each for each in caplog.messages if "20 refused" in each]
    assert len(lines) == 1


def test_an_unknown_or_zero_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for changed in ({"sokets": 5}, {"sockets": 0}):
        monkeypatch.setenv("ECOLINK_LIMITS", json.dumps(changed))
        with pytest.raises(ValueError, match=next(iter(changed))):
            check_settings(Settings())


def test_limits_reach_a_process_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from deploy.processes import environment

    for name, value in environment(Settings(limits={"sockets": 5})).items():
        monkeypatch.setenv(name, value)
    assert Limits(Settings().limits)["sockets"] == 5
    assert Limits(Settings().limits)["keys"] == Limits({})["keys"]
