"""Waiting: how long a claim at the end of a GPU pool's queue will stand there."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Occupied:
    """GPUs that a running segment holds, and for how long still."""

    count: int
    remaining_seconds: float


@dataclass(frozen=True)
class Queued:
    """GPUs that a claim in the queue needs, and for how long once it has them."""

    count: int
    seconds: float


def wait_seconds(
    capacity: int, running: Sequence[Occupied], queue: Sequence[Queued], count: int
) -> float | None:
    """Seconds until a claim of `count` GPUs that joins the queue now would get them.

    Claims are served in order, and one that does not fit blocks those behind it, as in
    `domain.capacity.gpu_pool`. None if this claim or one before it needs more than the pool has.
    """
    now, free = 0.0, capacity - sum(each.count for each in running)
    releases = [(max(0.0, each.remaining_seconds), each.count) for each in running]
    heapq.heapify(releases)
    for claim in (*queue, Queued(count, 0.0)):
        while claim.count > free:
            if not releases:
                return None
            now, released = heapq.heappop(releases)
            free += released
        free -= claim.count
        heapq.heappush(releases, (now + max(0.0, claim.seconds), claim.count))
    return now
