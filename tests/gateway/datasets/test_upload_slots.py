"""Limits on simultaneous uploads of an account and of a gateway, with stalled clients."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi.testclient import TestClient

from gateway.datasets.uploads import upload_slot
from gateway.http.errors import RateLimited
from infrastructure.limits import LIMITS
from infrastructure.settings import Settings
from tests.builders.platform import Person, Platform
from tests.gateway.conftest import Gateway, running_gateway
from tests.polling import TIMEOUT_SECONDS, eventually
from tests.services.datasets.uploads import VALID

PATIENT = {"body_window_seconds": 3600}
"""A slow test must not time out stalled clients."""

Prepare = Callable[[Gateway, Person], httpx.Request]


def as_body(gateway: Gateway, person: Person) -> httpx.Request:
    url = f"{gateway.url}/api/datasets?name=stalled"
    return httpx.Request("POST", url, content=VALID, headers=person.headers)


def as_form(gateway: Gateway, person: Person) -> httpx.Request:
    files = {"purpose": (None, "fine-tune"), "file": ("stalled.jsonl", VALID)}
    return httpx.Request("POST", f"{gateway.url}/v1/files", files=files, headers=person.headers)


class StalledUpload:
    """An upload whose client sends all but the last bytes of the body."""

    def __init__(self, request: httpx.Request) -> None:
        lines = [f"POST {request.url.raw_path.decode()} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in request.headers.items()]
        body = request.read()
        self._rest = body[-20:]
        self.socket = socket.create_connection((request.url.host, request.url.port or 80))
        self.socket.settimeout(TIMEOUT_SECONDS)
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode() + body[:-20])

    def answer(self) -> tuple[int, str]:
        """Wait for the response. Return its status and its text so far."""
        text = self.socket.recv(65536).decode()
        return int(text.split()[1]), text

    def finish(self) -> int:
        """Send the rest and return the status."""
        self.socket.sendall(self._rest)
        return self.answer()[0]


@contextmanager
def stalled(requests: list[httpx.Request]) -> Iterator[list[StalledUpload]]:
    """Yield uploads that stall at the same time."""
    uploads = [StalledUpload(each) for each in requests]
    with ExitStack() as stack:
        for each in uploads:
            stack.enter_context(each.socket)
        yield uploads


def answered(uploads: list[StalledUpload]) -> list[StalledUpload]:
    ready, _, _ = select.select([each.socket for each in uploads], [], [], 0)
    return [each for each in uploads if each.socket in ready]


def refused_with(uploads: list[StalledUpload], limit: str) -> tuple[StalledUpload, str]:
    """Wait until one upload is refused because of a limit. Return it and the response."""
    (refused,) = eventually(lambda: answered(uploads))
    status, text = refused.answer()
    assert status == 429
    assert LIMITS[limit].refusal.split("{limit}")[0] in text
    return refused, text


@contextmanager
def patient_gateway(settings: Settings, **limits: int) -> Iterator[Gateway]:
    with running_gateway(settings.model_copy(update={"limits": PATIENT | limits})) as running:
        yield running


def upload(request: httpx.Request) -> int:
    with httpx.Client(timeout=TIMEOUT_SECONDS) as client:
        return client.send(request).status_code


@pytest.mark.full
@pytest.mark.parametrize("prepare", [as_body, as_form])
def test_simultaneous_uploads_of_an_account_are_limited(
    settings: Settings, platform: Platform, projecting: None, prepare: Prepare
) -> None:
    person, other, most = platform.person(), platform.person(), LIMITS["uploads"].default
    with patient_gateway(settings) as gateway:
        with stalled([prepare(gateway, person) for _ in range(most + 1)]) as uploads:
            refused, text = refused_with(uploads, "uploads")
            assert f"x-ratelimit-limit-uploads: {most}" in text
            assert "retry-after: " in text
            held = [each for each in uploads if each is not refused]
            assert upload(prepare(gateway, person)) == 429
            assert upload(prepare(gateway, other)) < 300
            assert not answered(held), "those that came first are kept"

            assert held.pop().finish() < 300
            assert upload(prepare(gateway, person)) < 300
            held.pop().socket.close()  # a disconnected client frees its slot too

            def all_accepted() -> bool:
                free = [prepare(gateway, person) for _ in range(most - len(held))]
                with stalled(free) as more:
                    return all(each.finish() < 300 for each in more)

            eventually(all_accepted)
            assert all(each.finish() < 300 for each in held)


@pytest.mark.full
def test_simultaneous_uploads_of_a_gateway_are_limited(
    settings: Settings, platform: Platform, projecting: None
) -> None:
    people = [platform.person() for _ in range(3)]
    with patient_gateway(settings, all_uploads=2) as gateway:
        with stalled([as_body(gateway, each) for each in people]) as uploads:
            refused, _ = refused_with(uploads, "all_uploads")
            late = people[uploads.index(refused)]
            assert upload(as_body(gateway, late)) == 429
            next(each for each in uploads if each is not refused).finish()
            assert upload(as_body(gateway, late)) == 202


def test_slow_uploads_of_a_few_accounts_leave_slots_for_others(client: TestClient) -> None:
    backend = client.app.state.backend  # type: ignore[attr-defined]
    assert client.portal is not None

    async def fill() -> None:
        async with AsyncExitStack() as held:
            for _ in range(6):
                caller: Any = SimpleNamespace(account_id=uuid4())
                for _ in range(LIMITS["uploads"].default):
                    with suppress(RateLimited):
                        await held.enter_async_context(upload_slot(backend, caller))
            other: Any = SimpleNamespace(account_id=uuid4())
            await held.enter_async_context(upload_slot(backend, other))
            with pytest.raises(RateLimited):
                await held.enter_async_context(upload_slot(backend, other))

    client.portal.call(fill)
