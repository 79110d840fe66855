"""Event streams of clients that wait, disconnect or stop reading."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sse_starlette.sse import AppStatus
from starlette.requests import ClientDisconnect

from gateway.http import streaming
from gateway.http.streaming import PING, EventStream

SCOPE = {"type": "http", "method": "POST", "asgi": {"spec_version": "2.4"}}


async def never(*_: Any) -> Any:
    await asyncio.Event().wait()


class Closes:
    """Counts the calls that close a stream."""

    count = 0

    async def __call__(self) -> None:
        self.count += 1


async def endless() -> AsyncIterator[str]:
    while True:
        yield "{}"


def test_a_client_that_stops_reading_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "SEND_SECONDS", 0.01)
    close = Closes()

    async def reads_the_start(message: Any) -> None:
        if message["type"] == "http.response.body":
            await never()

    with pytest.raises(ClientDisconnect):
        asyncio.run(EventStream(endless(), close)(SCOPE, never, reads_the_start))
    assert close.count == 1


def test_a_stream_ends_completely_after_the_process_is_told_to_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(AppStatus, "original_handler", None)
    monkeypatch.setattr(AppStatus, "should_exit", False)
    AppStatus.handle_exit()  # what the library does on SIGTERM
    sent = list[bytes]()

    async def data() -> AsyncIterator[str]:
        for each in ("first", "second"):
            yield each
            await asyncio.sleep(0.01)

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    asyncio.run(EventStream(data(), Closes())(SCOPE, never, send))
    assert b"second" in sent[-2]


def test_a_silent_stream_sends_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "PING_SECONDS", 0.01)
    pinged, sent = asyncio.Event(), list[bytes]()

    async def data() -> AsyncIterator[str]:
        yield "first"
        await pinged.wait()
        yield "second"

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))
        if PING.encode() in sent[-1]:
            pinged.set()

    asyncio.run(EventStream(data(), Closes())(SCOPE, never, send))
    events = b"".join(sent).decode().split("\n\n")
    assert [each for each in events if each != f": {PING}"] == ["data: first", "data: second", ""]
    assert f": {PING}" in events


def test_a_stream_ends_when_its_client_disconnects() -> None:
    close, ended = Closes(), list[bool]()

    async def data() -> AsyncIterator[str]:
        try:
            yield "first"
            await never()
        finally:
            ended.append(True)

    async def scenario() -> None:
        received = asyncio.Event()

        async def send(message: Any) -> None:
            if message.get("body"):
                received.set()

        async def receive() -> Any:
            await received.wait()
            return {"type": "http.disconnect"}

        await EventStream(data(), close)(SCOPE, receive, send)

    asyncio.run(scenario())
    assert (ended, close.count) == ([True], 1)


def test_a_failure_while_streaming_is_raised() -> None:
    close = Closes()

    async def data() -> AsyncIterator[str]:
        yield "first"
        raise ZeroDivisionError

    async def send(_: Any) -> None:
        pass

    with pytest.raises(ZeroDivisionError):
        asyncio.run(EventStream(data(), close)(SCOPE, never, send))
    assert close.count == 1
