"""Claims of GPU pools, which the gateway keeps in memory while they are expensive to read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from uuid import UUID

from domain.capacity.queue_eta import Occupied, Queued, wait_seconds, waits_in_queue

CHEAP_SECONDS = 0.05
"""Time to read the claims of a pool below which each request reads them."""

SHARE = 20
"""The claims of a large pool are kept for this many times the time to read them."""

MAX_KEPT_SECONDS = 60.0


@dataclass(frozen=True)
class PoolClaims:
    """The claims of one pool at a moment, and the expected waits."""

    capacity: int
    running: tuple[Occupied, ...]
    queue: tuple[Queued, ...]
    queued_jobs: Sequence[UUID]
    waits: dict[int, float | None] = field(default_factory=dict[int, float | None])
    """Waits of new claims that have been computed, by number of GPUs."""

    def wait_of(self, job_id: UUID, count: int) -> float | None:
        """Return a queued job's expected wait in seconds; None if it cannot be served."""
        if job_id in self._waits_by_job:
            return self._waits_by_job[job_id]
        if count not in self.waits:
            self.waits[count] = wait_seconds(self.capacity, self.running, self.queue, count)
        return self.waits[count]

    @cached_property
    def _waits_by_job(self) -> dict[UUID, float | None]:
        waits = waits_in_queue(self.capacity, self.running, self.queue)
        return dict(zip(self.queued_jobs, waits, strict=True))


class ClaimsCache:
    """The claims of each pool, as of some seconds ago if the pool is large.

    A pool with 100,000 claims takes seconds to read. The expected wait changes little in that time.
    The number of free GPUs does not come from here.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: dict[UUID, tuple[PoolClaims, float]] = {}
        self._reading: dict[UUID, Lock] = {}

    def get(self, pool_id: UUID, read: Callable[[], PoolClaims]) -> PoolClaims:
        """Return the claims of a pool. Only one request at a time reads those of a large pool."""
        kept = self._kept.get(pool_id)
        if kept is None:
            return self._read(pool_id, read)
        claims, expires = kept
        if self._clock() < expires:
            return claims
        lock = self._reading.setdefault(pool_id, Lock())
        if not lock.acquire(blocking=False):
            return claims
        try:
            return self._read(pool_id, read)
        finally:
            lock.release()

    def _read(self, pool_id: UUID, read: Callable[[], PoolClaims]) -> PoolClaims:
        began = self._clock()
        claims = read()
        now = self._clock()
        taken = now - began
        if taken < CHEAP_SECONDS:
            self._kept.pop(pool_id, None)
        else:
            self._kept[pool_id] = claims, now + min(MAX_KEPT_SECONDS, SHARE * taken)
        return claims
