"""Batches from a pull subscription that refuses, ends or has less than a batch."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from nats.errors import ConnectionClosedError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext

from infrastructure import jetstream_pull as pulling
from infrastructure.jetstream_pull import Lingering

BATCH = 5
Answer = list[str] | Exception


def lingering(*answers: Answer) -> tuple[Lingering, list[int]]:
    """A subscription that answers so, one request after the other, and the sizes asked for."""
    asked: list[int] = []
    left = iter(answers)

    class Pulled:
        async def fetch(self, batch: int, timeout: float) -> list[str]:  # noqa: ASYNC109
            asked.append(batch)
            answer = next(left)
            if isinstance(answer, Exception):
                raise answer
            return answer

    pulled = cast("JetStreamContext.PullSubscription", Pulled())
    return Lingering(pulled, BATCH, 60), asked


@pytest.mark.parametrize(
    ("answers", "batch", "sizes"),
    [
        ([["a"], ["b", "c"], NatsTimeoutError()], "abc", [1, 4, 2]),
        ([["a"], ["b", "c", "d", "e"]], "abcde", [1, 4]),
        ([["a"], ConnectionClosedError()], "a", [1, 4]),  # the next request meets it again
    ],
)
async def test_a_batch_is_what_comes_soon_after_a_first_message(
    answers: list[Answer], batch: str, sizes: list[int]
) -> None:
    subscription, asked = lingering(*answers)
    given: list[Any] = await subscription.fetch(BATCH)
    assert given == list(batch)
    assert asked == sizes


async def test_what_a_batch_lacks_is_not_asked_for_again() -> None:
    subscription, asked = lingering()
    with pytest.raises(NatsTimeoutError):
        await subscription.fetch(BATCH - 1)
    assert asked == []


async def test_no_message_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "sleep", lambda seconds: pytest.fail("it pauses"))
    subscription, _ = lingering(NatsTimeoutError())
    with pytest.raises(NatsTimeoutError):
        await subscription.fetch(BATCH)


async def test_a_refusal_leaves_the_event_loop_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """FastStream asks again at once, for ever."""
    monkeypatch.setattr(pulling, "PAUSE_SECONDS", 0.01)
    subscription, _ = lingering(ConnectionClosedError())
    others: list[str] = []
    asyncio.get_running_loop().call_soon(others.append, "ran")
    with pytest.raises(ConnectionClosedError):
        await subscription.fetch(BATCH)
    assert others == ["ran"]
