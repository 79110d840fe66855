"""Silences: for how long pods have shown no sign of life."""

from __future__ import annotations

import time
from collections.abc import Hashable

from services.scheduler.launchers.launcher import PodName


class Silences:
    """Times since the last change of what each pod shows, on this process's monotonic clock.

    A process that starts, or was frozen itself, counts from its next look.
    """

    def __init__(self) -> None:
        self._shown: dict[PodName, tuple[Hashable, float]] = {}

    def seconds(self, name: PodName, shown: Hashable) -> float:
        """Seconds since a look at a pod first found what it shows now."""
        now = time.monotonic()
        before = self._shown.get(name)
        if before is None or before[0] != shown:
            self._shown[name] = shown, now
            return 0.0
        return now - before[1]

    def forget(self, name: PodName) -> None:
        """Count from the next look."""
        self._shown.pop(name, None)
