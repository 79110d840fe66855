"""A streamed completion whose API key ends."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient

from domain.access.rights import Rights
from domain.access.role import Role
from domain.access.scope import Scope
from gateway.chat.service import events_while_valid
from gateway.http.access import Caller
from tests.builders.platform import Person, Platform
from tests.polling import eventually


def caller_of(person: Person, expires_at: datetime | None = None) -> Caller:
    rights = Rights(Role.OWNER, tuple(Scope), expires_at)
    return Caller(person.account_id, person.account_id, rights, person.key_id, "request")


async def test_a_stream_ends_after_its_key_is_revoked(
    client: TestClient, platform: Platform
) -> None:
    assert isinstance(client.app, FastAPI)
    person, feed = platform.person(), client.app.state.feed

    async def events() -> AsyncIterator[str]:
        yield "first"
        platform.revoke(person)
        head = platform.log.recorder.max_notification_id()
        eventually(lambda: feed.position >= head)
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


async def streamed(client: TestClient, caller: Caller, events: Any) -> list[str]:
    request, chat = SimpleNamespace(app=client.app), SimpleNamespace(events=events)
    return [each async for each in events_while_valid(request, caller, chat)]  # type: ignore[arg-type]
