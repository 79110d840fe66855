"""Threads for requests that wait for other services for long.

All other routes share the 40 threads of the server. If payments and imports used these, a provider
that does not respond would stop all pages.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

THREADS = 24
"""Number of requests that wait for other services at the same time. Further ones wait for them."""

P = ParamSpec("P")
T = TypeVar("T")

_limiter: RunVar[CapacityLimiter | None] = RunVar("slow_work")


async def run_slowly(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run a function that may take minutes, in a thread for such work."""
    limiter = _limiter.get(None) or CapacityLimiter(THREADS)
    _limiter.set(limiter)
    return await to_thread.run_sync(partial(work, *arguments, **named), limiter=limiter)


def slow(endpoint: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Decorate a route that may take minutes, below the decorator of its router."""

    @wraps(endpoint)
    async def run(*arguments: P.args, **named: P.kwargs) -> T:
        return await run_slowly(endpoint, *arguments, **named)

    return run
