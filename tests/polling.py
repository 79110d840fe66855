"""Polling for a condition with a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

TIMEOUT_SECONDS = 120.0  # generous, because the machine may be busy


def eventually(condition: Callable[[], T], timeout: float = TIMEOUT_SECONDS) -> T:
    """Return the first true result of a condition. Fails after `timeout` seconds."""
    deadline, pause = time.monotonic() + timeout, 0.02
    while not (result := condition()):
        assert time.monotonic() < deadline, f"still {result!r} after {timeout} s"
        time.sleep(pause)
        pause = min(1.1 * pause, 0.2)  # long waits poll less often
    return result


async def eventually_async(condition: Callable[[], Awaitable[T]]) -> T:
    """Like `eventually`, for an awaitable condition."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (result := await condition()):
        assert time.monotonic() < deadline, f"still {result!r} after {TIMEOUT_SECONDS} s"
        await asyncio.sleep(0.02)
    return result
