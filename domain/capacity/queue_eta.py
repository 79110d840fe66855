"""Expected wait of a new claim in the queue of a GPU pool."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Occupied:
    """The GPUs of a running segment, and its remaining time."""

    count: int
    remaining_seconds: float


@dataclass(frozen=True)
class Queued:
    """The GPUs that a queued claim needs, and the time for which it will hold them."""

    count: int
    seconds: float


def wait_seconds(
    capacity: int, running: Sequence[Occupied], queue: Sequence[Queued], count: int
) -> float | None:
    """Return the seconds until the pool serves a new claim; None if the queue never gets there."""
    return waits_in_queue(capacity, running, (*queue, Queued(count, 0.0)))[-1]


def waits_in_queue(
    capacity: int, running: Sequence[Occupied], queue: Sequence[Queued]
) -> list[float | None]:
    """Return the seconds until the pool would serve each queued claim.

    The queue is first in, first out, as in `domain.capacity.gpu_pool`: a claim that does not fit
    blocks the claims behind it. The wait of a claim is None if it or one before it exceeds the
    capacity.
    """
    now, free = 0.0, capacity - sum(each.count for each in running)
    releases = [(max(0.0, each.remaining_seconds), each.count) for each in running]
    heapq.heapify(releases)
    waits: list[float | None] = []
    for claim in queue:
        while claim.count > free:
            if not releases:
                return [*waits, *[None] * (len(queue) - len(waits))]
            now, released = heapq.heappop(releases)
            free += released
        free -= claim.count
        heapq.heappush(releases, (now + max(0.0, claim.seconds), claim.count))
        waits.append(now)
    return waits
