"""Rate limits and quotas of accounts: token buckets, slots, and counts of read models."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Generator, Hashable
from contextlib import contextmanager
from typing import NamedTuple
from uuid import UUID

from gateway.http.errors import QuotaExceeded, RateLimited
from infrastructure.http.limits import Limits

MOST_BUCKETS = 50_000
"""Maximum buckets in memory. The least recently used one is dropped, and starts full."""

BUSY_SECONDS = 5
"""Retry-After in seconds if all slots are taken."""


class Level(NamedTuple):
    """The fill level of a bucket."""

    limit: int
    remaining: int
    reset_seconds: float  # seconds until the bucket is full

    def headers(self, name: str) -> dict[str, str]:
        """Return the rate limit headers, with OpenAI's names."""
        return {
            f"x-ratelimit-limit-{name}": str(self.limit),
            f"x-ratelimit-remaining-{name}": str(max(0, self.remaining)),
            f"x-ratelimit-reset-{name}": duration(self.reset_seconds),
        }


def duration(seconds: float) -> str:
    """Return a duration as in OpenAI's headers, such as `1m4s` or `250ms`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


class Buckets:
    """Token buckets by limit and owner. Thread-safe."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._levels: OrderedDict[tuple[str, Hashable], tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, name: str, owner: Hashable, cost: int = 1) -> Level:
        """Take tokens, or raise RateLimited if empty. A higher cost leaves a debt to refill."""
        size, rate = self._size(name)
        with self._lock:
            held = self._held(name, owner)
            if held < 1:
                level = Level(size, 0, (size - held) / rate)
                raise self._refusal(name, math.ceil((1 - held) / rate), level)
            held -= cost
            self._keep(name, owner, held)
        return Level(size, math.floor(held), (size - held) / rate)

    def charge(self, name: str, owner: Hashable, cost: int) -> Level:
        """Charge tokens that were already used. If too few are left, the bucket goes into debt."""
        size, rate = self._size(name)
        with self._lock:
            held = self._held(name, owner) - cost
            self._keep(name, owner, held)
        return Level(size, math.floor(held), (size - held) / rate)

    def require(self, name: str, owner: Hashable) -> Level:
        """Raise RateLimited if the bucket is empty. Take no tokens."""
        return self.take(name, owner, 0)

    def _size(self, name: str) -> tuple[int, float]:
        per_seconds = self._limits.declared[name].per_seconds
        assert per_seconds is not None
        return self._limits[name], self._limits[name] / per_seconds

    def _held(self, name: str, owner: Hashable) -> float:
        size, rate = self._size(name)
        held, at = self._levels.get((name, owner), (float(size), 0.0))
        return min(size, held + (self._clock() - at) * rate) if at else held

    def _keep(self, name: str, owner: Hashable, held: float) -> None:
        self._levels[name, owner] = (held, self._clock())
        self._levels.move_to_end((name, owner))
        if len(self._levels) > MOST_BUCKETS:
            self._levels.popitem(last=False)

    def _refusal(self, name: str, seconds: int, level: Level) -> RateLimited:
        limit = self._limits.declared[name]
        message = f"{limit.refusal.format(limit=f'{level.limit:,}')} Try again in {seconds:,} s."
        return RateLimited(message, seconds, level.headers(limit.header or "requests"))


class Slots:
    """Limits on concurrency, per account or for the whole process."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._taken: Counter[tuple[str, Hashable]] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def hold(self, name: str, owner: Hashable, spare: int = 0) -> Generator[int]:
        """Hold a slot during the block, and yield the number of taken ones.

        Raise RateLimited if all slots are taken, or all but `spare` ones.
        """
        limit, place = self._limits[name], (name, owner)
        with self._lock:
            if self._taken[place] >= limit - spare:
                level = Level(limit, 0, BUSY_SECONDS)
                raise RateLimited(
                    self._limits.declared[name].refusal.format(limit=f"{limit:,}"),
                    BUSY_SECONDS,
                    level.headers(self._limits.declared[name].header or name),
                )
            self._taken[place] += 1
            taken = self._taken[place]
        try:
            yield taken
        finally:
            with self._lock:
                self._taken[place] -= 1
                if not self._taken[place]:
                    del self._taken[place]


class Quotas:
    """All account limits of one gateway process."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.rates = Buckets(limits, clock)
        self.slots = Slots(limits)

    def admit(self, account_id: UUID, *, changes: bool) -> dict[str, str]:
        """Count a request of an account. Return the headers for its response."""
        level = self.rates.take("requests", account_id)
        if changes:
            self.rates.take("changes", account_id)
        return level.headers("requests")

    def require_room(self, name: str, used: int, unit: int = 1) -> int:
        """Return what is left of a quota, in units of the limit, or raise QuotaExceeded."""
        limit = self.limits.declared[name]
        most = self.limits[name] * unit
        if used >= most:
            raise QuotaExceeded(
                limit.refusal.format(limit=f"{self.limits[name]:,}", used=f"{used:,}"),
                {
                    f"x-ratelimit-limit-{limit.header}": str(most),
                    f"x-ratelimit-remaining-{limit.header}": "0",
                },
            )
        return most - used
