"""Measures for how long pods have shown no sign of life."""

from __future__ import annotations

import time
from collections.abc import Hashable

from services.scheduler.launchers.launcher import PodName


class Silences:
    """Time since each pod's last sign of life, by this process's monotonic clock.

    A pod's first observation starts the count, so that a restarted scheduler starts from zero.
    """

    def __init__(self) -> None:
        self._shown: dict[PodName, tuple[Hashable, float]] = {}

    def seconds(self, name: PodName, shown: Hashable) -> float:
        """Seconds since the pod first showed this value."""
        now = time.monotonic()
        before = self._shown.get(name)
        if before is None or before[0] != shown:
            self._shown[name] = shown, now
            return 0.0
        return now - before[1]

    def forget(self, name: PodName) -> None:
        """Restart the count at the next observation."""
        self._shown.pop(name, None)
