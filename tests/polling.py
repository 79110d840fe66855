"""Waiting for a condition, for at most so long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

TIMEOUT_SECONDS = 60.0  # what takes a second takes ten on a machine that does other things too


def eventually(condition: Callable[[], T], timeout: float = TIMEOUT_SECONDS) -> T:
    """The first true result of the condition; fails after `timeout` seconds with the last one."""
    deadline, pause = time.monotonic() + timeout, 0.02
    while not (result := condition()):
        assert time.monotonic() < deadline, f"still {result!r} after {timeout} s"
        time.sleep(pause)
        pause = min(1.1 * pause, 0.2)  # whoever waits long takes less from what it waits for
    return result


async def eventually_async(condition: Callable[[], Awaitable[T]]) -> T:
    """As `eventually`, of a condition that is awaited."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (result := await condition()):
        assert time.monotonic() < deadline, f"still {result!r} after {TIMEOUT_SECONDS} s"
        await asyncio.sleep(0.02)
    return result
