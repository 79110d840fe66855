"""Waiting for a condition, for at most so long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

TIMEOUT_SECONDS = 15.0


def eventually(condition: Callable[[], T], timeout: float = TIMEOUT_SECONDS) -> T:
    """The first true result of the condition; fails after `timeout` seconds with the last one."""
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < deadline, f"still {result!r} after {timeout} s"
        time.sleep(0.02)
    return result


async def eventually_async(condition: Callable[[], Awaitable[T]]) -> T:
    """As `eventually`, of a condition that is awaited."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (result := await condition()):
        assert time.monotonic() < deadline, f"still {result!r} after {TIMEOUT_SECONDS} s"
        await asyncio.sleep(0.02)
    return result
