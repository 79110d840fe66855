"""A stream of events to clients that wait, leave, or read nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from gateway.http import event_stream
from gateway.http.event_stream import WAITING, EventStream, patiently


async def never(*_: Any) -> Any:
    await asyncio.Event().wait()


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
def test_a_client_that_reads_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, spec_version: str
) -> None:
    monkeypatch.setattr(event_stream, "SEND_SECONDS", 0.01)
    ended: list[bool] = []

    async def events() -> AsyncIterator[str]:
        while True:
            yield "data: {}\n\n"

    async def end() -> None:
        ended.append(True)

    scope = {"type": "http", "asgi": {"spec_version": spec_version}}
    with pytest.raises(ClientDisconnect):
        asyncio.run(EventStream(events(), end)(scope, never, never))
    assert ended == [True]


def test_who_waits_hears_that_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "WAITING_SECONDS", 0.01)
    begun = asyncio.Event()

    async def events() -> AsyncIterator[str]:
        yield "first"
        await begun.wait()
        yield "second"

    async def heard() -> list[str]:
        all_heard = []
        async for event in patiently(events()):
            all_heard.append(event)
            if event == WAITING:
                begun.set()
        return all_heard

    said = asyncio.run(heard())
    assert [each for each in said if each != WAITING] == ["first", "second"]
    assert said[1] == WAITING


def test_events_that_nobody_hears_any_more_are_ended() -> None:
    ended: list[bool] = []

    async def events() -> AsyncIterator[str]:
        try:
            yield "first"
            await never()
        finally:
            ended.append(True)

    async def leave() -> None:
        async with asyncio.timeout(0.01):
            async for _ in patiently(events()):
                pass

    with pytest.raises(TimeoutError):
        asyncio.run(leave())
    assert ended == [True]


def test_a_failure_of_the_events_is_the_streams() -> None:
    async def events() -> AsyncIterator[str]:
        yield "first"
        raise ZeroDivisionError

    async def hear() -> None:
        async for _ in patiently(events()):
            pass

    with pytest.raises(ZeroDivisionError):
        asyncio.run(hear())
