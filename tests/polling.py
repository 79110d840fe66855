"""Waiting for a condition, for at most so long."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(condition: Callable[[], T], timeout: float = 15.0) -> T:
    """The first true result of the condition; fails after `timeout` seconds with the last one."""
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < deadline, f"still {result!r} after {timeout} s"
        time.sleep(0.02)
    return result
