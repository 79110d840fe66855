"""Batches of a pull subscription that fails, ends or has few messages."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from nats.errors import ConnectionClosedError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext

from infrastructure.bus import pull as pulling
from infrastructure.bus.pull import LongPolling

BATCH = 5
Answer = list[str] | Exception


def polled(*answers: Answer) -> tuple[LongPolling, list[int]]:
    """A subscription with given answers, which records the requested sizes."""
    requested: list[int] = []
    left = iter(answers)

    class Pulled:
        async def fetch(self, batch: int, timeout: float) -> list[str]:  # noqa: ASYNC109
            requested.append(batch)
            answer = next(left)
            if isinstance(answer, Exception):
                raise answer
            return answer

    pulled = cast("JetStreamContext.PullSubscription", Pulled())
    return LongPolling(pulled, BATCH, 60), requested


@pytest.mark.parametrize(
    ("answers", "batch", "sizes"),
    [
        ([["a"], ["b", "c"], NatsTimeoutError()], "abc", [1, 4, 2]),
        ([["a"], ["b", "c", "d", "e"]], "abcde", [1, 4]),
        ([["a"], ConnectionClosedError()], "a", [1, 4]),  # the next request meets it again
    ],
)
async def test_a_batch_has_messages_soon_after_the_first(
    answers: list[Answer], batch: str, sizes: list[int]
) -> None:
    subscription, requested = polled(*answers)
    given: list[Any] = await subscription.fetch(BATCH)
    assert given == list(batch)
    assert requested == sizes


async def test_an_incomplete_batch_is_not_fetched_again() -> None:
    subscription, requested = polled()
    with pytest.raises(NatsTimeoutError):
        await subscription.fetch(BATCH - 1)
    assert requested == []


async def test_an_empty_fetch_is_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "sleep", lambda seconds: pytest.fail("it pauses"))
    subscription, _ = polled(NatsTimeoutError())
    with pytest.raises(NatsTimeoutError):
        await subscription.fetch(BATCH)


async def test_an_error_pauses_before_the_next_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    """FastStream retries at once, without end."""
    monkeypatch.setattr(pulling, "PAUSE_SECONDS", 0.01)
    subscription, _ = polled(ConnectionClosedError())
    others: list[str] = []
    asyncio.get_running_loop().call_soon(others.append, "ran")
    with pytest.raises(ConnectionClosedError):
        await subscription.fetch(BATCH)
    assert others == ["ran"]
