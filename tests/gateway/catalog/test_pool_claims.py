"""Claims of pools that the gateway keeps in memory."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from domain.capacity.queue_eta import Occupied, Queued
from gateway.catalog.pool_claims import CHEAP_SECONDS, MAX_KEPT_SECONDS, ClaimsCache, PoolClaims

POOL, FIRST, SECOND, OTHER = (UUID(int=n) for n in range(4))


class Reads:
    """A clock, and reads of a pool that take some seconds."""

    def __init__(self, taken: float) -> None:
        self.now, self.taken, self.count = 0.0, taken, 0

    def clock(self) -> float:
        return self.now

    def read(self) -> PoolClaims:
        self.now += self.taken
        self.count += 1
        return PoolClaims(self.count, (), (), ())


def cached(reads: Reads) -> Callable[[], int]:
    cache = ClaimsCache(reads.clock)
    return lambda: cache.get(POOL, reads.read).capacity


def test_a_small_pool_is_read_for_each_request() -> None:
    capacity = cached(Reads(CHEAP_SECONDS / 2))
    assert [capacity() for _ in range(3)] == [1, 2, 3]


def test_a_large_pool_is_read_again_after_twenty_times_as_long() -> None:
    reads = Reads(2.0)
    capacity = cached(reads)
    assert [capacity(), capacity()] == [1, 1]
    reads.now += 39.0
    assert capacity() == 1
    reads.now += 1.0
    assert capacity() == 2


def test_claims_are_kept_for_a_minute_at_most() -> None:
    reads = Reads(100.0)
    capacity = cached(reads)
    capacity()
    reads.now += MAX_KEPT_SECONDS
    assert capacity() == 2


def test_requests_during_a_read_get_the_previous_claims() -> None:
    reads = Reads(2.0)
    cache = ClaimsCache(reads.clock)
    cache.get(POOL, reads.read)
    reads.now += MAX_KEPT_SECONDS
    during: list[int] = []

    def read() -> PoolClaims:
        during.append(cache.get(POOL, reads.read).capacity)
        return reads.read()

    assert cache.get(POOL, read).capacity == 2
    assert during == [1]


def test_a_queued_job_waits_for_the_jobs_before_it_and_a_new_one_for_all() -> None:
    queue = (Queued(1, 50.0), Queued(1, 70.0))
    claims = PoolClaims(1, (Occupied(1, 30.0),), queue, (FIRST, SECOND))
    assert claims.wait_of(FIRST, 1) == 30.0
    assert claims.wait_of(SECOND, 1) == 80.0
    assert claims.wait_of(OTHER, 1) == 150.0
    assert claims.waits == {1: 150.0}
    assert claims.wait_of(OTHER, 2) is None
