"""The capacity of a cluster whose nodes come and go."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping

Place = tuple[str, str]
"""Region and GPU type."""

HOLD_SECONDS = 600.0
"""Seconds for which a lost GPU still counts, in which most nodes return."""


class RecentCapacity:
    """The highest number of GPUs in the last 10 minutes, by region and GPU type.

    Without it, the reboot of a node would pause every queued job that needs the node's GPUs. A job
    that gets a lost GPU waits in the queue of the cluster, which is free of charge.
    After a restart, the capacity of the pools counts as that of the moment before.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, Mapping[Place, int]]] = deque()

    def highest(self, counts: Mapping[Place, int], known: Mapping[Place, int]) -> dict[Place, int]:
        """Add the numbers of now (first: `known` ones). Return the highest of each place."""
        now = self._clock()
        if not self._seen:
            self._seen.append((now, dict(known)))
        self._seen.append((now, dict(counts)))
        while now - self._seen[0][0] > HOLD_SECONDS:
            self._seen.popleft()
        result: dict[Place, int] = {}
        for _, seen in self._seen:
            for place, count in seen.items():
                result[place] = max(count, result.get(place, 0))
        return result
