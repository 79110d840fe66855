"""Threads of the server that are all in use."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Semaphore
from typing import Any, NoReturn

import httpx
from anyio.to_thread import current_default_thread_limiter
from fastapi.testclient import TestClient

from domain.core.errors import WrongState
from tests.polling import TIMEOUT_SECONDS


@contextmanager
def threads(client: TestClient, total: int) -> Generator[None]:
    """Let the routes of a gateway share this number of threads."""
    assert client.portal is not None

    async def change(number: int) -> int:
        limiter = current_default_thread_limiter()
        before, limiter.total_tokens = int(limiter.total_tokens), number
        return before

    before = client.portal.call(change, total)
    try:
        yield
    finally:
        client.portal.call(change, before)


@contextmanager
def threads_in_use(client: TestClient) -> Generator[None]:
    """Use all threads that the routes of a gateway share."""
    assert client.portal is not None
    user = object()

    async def take() -> None:
        await current_default_thread_limiter().acquire_on_behalf_of(user)

    async def give_back() -> None:
        current_default_thread_limiter().release_on_behalf_of(user)

    with threads(client, 1):
        client.portal.call(take)
        try:
            yield
        finally:
            client.portal.call(give_back)


def later(client: TestClient, method: str, path: str, **options: Any) -> Future[httpx.Response]:
    """Send a request in a thread."""
    return ThreadPoolExecutor(1).submit(client.request, method, path, **options)


@dataclass
class Blocked:
    """A function that does not return before the end of the test."""

    calls: Semaphore = field(default_factory=lambda: Semaphore(0))
    ended: Event = field(default_factory=Event)

    def __call__(self, *_: object) -> NoReturn:
        self.calls.release()
        self.ended.wait(TIMEOUT_SECONDS)
        raise WrongState("The test ends.")


def others_are_answered(
    client: TestClient, blocked: Blocked, headers: dict[str, str], *request: str, **options: Any
) -> bool:
    """Send more slow requests than the routes have threads. Return True if others still work."""
    with threads(client, 2):
        slow = [later(client, *request, headers=headers, **options) for _ in range(2)]
        try:
            assert all(blocked.calls.acquire(timeout=TIMEOUT_SECONDS) for _ in slow)
            other = later(client, "GET", "/api/account", headers=headers)
            return other.result(TIMEOUT_SECONDS).is_success
        finally:
            blocked.ended.set()
            wait(slow, TIMEOUT_SECONDS)
