"""Deliberate defects of the product, to show that the oracle finds them.

The environment variable `CHAOS_BREAK` names the defect. The entry point of a process installs it
before the process imports its own modules.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any

BREAK = "CHAOS_BREAK"
"""Environment variable with the name of a defect."""


def install(process: str) -> None:
    """Install the chosen defect in this process, if it concerns the process."""
    chosen = os.environ.get(BREAK)
    if chosen is None:
        return
    processes, broken = BREAKS[chosen]
    if process in processes:
        broken()


def lead_together() -> None:
    """Lead although another process leads, and save without the check of the epoch."""
    from infrastructure.postgres.event_recorder import EventRecorder
    from infrastructure.postgres.leadership import Leadership

    append = EventRecorder._append

    def unchecked(self: EventRecorder, *saved: Any) -> Any:
        without = copy.copy(self)
        without.leadership = None
        return append(without, *saved)

    EventRecorder._append = unchecked
    Leadership._holds_lock = lambda self: True
    Leadership.lost = lambda self, reason: None


BREAKS: dict[str, tuple[tuple[str, ...], Callable[[], None]]] = {
    "two-leaders": (("scheduler", "billing"), lead_together),
}
"""The defects by name, each with the processes that have it."""
