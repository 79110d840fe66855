"""A completion whose API key ends, or whose account is suspended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from domain.access.rights import Rights
from domain.access.role import Role
from domain.access.scope import Scope
from domain.core.errors import Suspended
from gateway.chat.service import Chat, Frame, completion_while_valid, events_while_valid
from gateway.http.access import Caller
from gateway.http.errors import Unauthenticated
from infrastructure.chat.generation import TextDelta
from tests.builders.platform import Person, Platform
from tests.polling import eventually

LAST = TextDelta(choice=0, text="last", finish_reason="stop", completion_tokens=1)


def caller_of(person: Person, expires_at: datetime | None = None) -> Caller:
    rights = Rights(Role.OWNER, tuple(Scope), expires_at)
    return Caller(person.account_id, person.account_id, rights, person.key_id, "request")


async def test_a_stream_ends_after_its_key_is_revoked(
    client: TestClient, platform: Platform
) -> None:
    person = platform.person()

    async def events() -> AsyncIterator[str]:
        yield "first"
        revoke(client, platform, person)
        yield "second"
        yield "third"

    first, last = await streamed(client, caller_of(person), events)
    assert first == "first"
    assert json.loads(last)["error"]["code"] == "unauthenticated"


async def test_a_stream_ends_after_its_key_expires(client: TestClient, platform: Platform) -> None:
    async def events() -> AsyncIterator[str]:
        yield "first"

    (last,) = await streamed(client, caller_of(platform.person(), datetime.now(UTC)), events)
    assert json.loads(last)["error"]["code"] == "unauthenticated"


async def test_a_stream_of_a_key_that_was_revoked_in_the_queue_has_only_an_error(
    client: TestClient, platform: Platform
) -> None:
    person = platform.person()
    revoke(client, platform, person)

    async def events() -> AsyncIterator[str]:
        yield "first"

    (last,) = await streamed(client, caller_of(person), events)
    assert json.loads(last)["error"]["code"] == "unauthenticated"


async def test_a_completion_is_refused_if_its_key_is_revoked_in_the_queue(
    client: TestClient, platform: Platform
) -> None:
    person = platform.person()
    revoke(client, platform, person)
    with pytest.raises(Unauthenticated):
        await completed(client, caller_of(person), pieces=[LAST])


async def test_a_completion_is_refused_if_its_key_expires(
    client: TestClient, platform: Platform
) -> None:
    caller = caller_of(platform.person(), datetime.now(UTC))
    with pytest.raises(Unauthenticated):
        await completed(client, caller, pieces=[LAST])


async def test_a_completion_stops_when_its_key_is_revoked(
    client: TestClient, platform: Platform
) -> None:
    person = platform.person()

    def pieces() -> Iterator[TextDelta]:
        yield TextDelta(choice=0, text="first")
        revoke(client, platform, person)
        yield TextDelta(choice=0, text="second")
        raise AssertionError("the generation continued")

    with pytest.raises(Unauthenticated):
        await completed(client, caller_of(person), pieces())


async def test_a_stream_ends_when_its_account_is_suspended(
    client: TestClient, platform: Platform
) -> None:
    person = platform.person()

    async def events() -> AsyncIterator[str]:
        yield "first"
        platform.suspend(person)
        await_feed(client, platform)
        yield "second"

    first, last = await streamed(client, caller_of(person), events)
    assert first == "first"
    assert json.loads(last)["error"]["code"] == "account_suspended"


async def test_a_completion_is_refused_only_while_its_account_is_suspended(
    client: TestClient, platform: Platform
) -> None:
    person = platform.person()
    platform.suspend(person)
    await_feed(client, platform)
    with pytest.raises(Suspended):
        await completed(client, caller_of(person), pieces=[LAST])
    platform.reinstate(person)
    await_feed(client, platform)
    await completed(client, caller_of(person), pieces=[LAST])


async def test_a_completion_of_a_valid_key_is_returned(
    client: TestClient, platform: Platform
) -> None:
    got = await completed(client, caller_of(platform.person()), pieces=[LAST])
    assert got["choices"][0]["message"]["content"] == "last"


def revoke(client: TestClient, platform: Platform, person: Person) -> None:
    """Revoke a key, and wait until the feed has read the revocation."""
    platform.revoke(person)
    await_feed(client, platform)


def await_feed(client: TestClient, platform: Platform) -> None:
    """Wait until the feed has read all events."""
    assert isinstance(client.app, FastAPI)
    feed = client.app.state.feed
    head = platform.log.recorder.max_notification_id()
    eventually(lambda: feed.position >= head)


async def completed(client: TestClient, caller: Caller, pieces: Iterable[TextDelta]) -> Any:
    async def generated() -> AsyncIterator[TextDelta]:
        for each in pieces:
            yield each

    generation: Any = SimpleNamespace(pieces=generated, prompt_tokens=1)
    request: Any = SimpleNamespace(app=client.app, receive=asyncio.Event().wait)
    chat = Chat(generation, Frame("request", 0, "model"), 1, False)
    return await completion_while_valid(request, caller, chat)


async def streamed(client: TestClient, caller: Caller, events: Any) -> list[str]:
    request, chat = SimpleNamespace(app=client.app), SimpleNamespace(events=events)
    return [each async for each in events_while_valid(request, caller, chat)]  # type: ignore[arg-type]
