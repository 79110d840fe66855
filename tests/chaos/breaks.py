"""Deliberate defects of the product, to show that the oracle finds them.

The environment variable `CHAOS_BREAK` names the defect. The entry point of a process installs it
before the process imports its own modules.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

BREAK = "CHAOS_BREAK"
"""Environment variable with the name of a defect."""

SKIPPED = 25
"""One event of this many batches is skipped."""


def install(process: str) -> None:
    """Install the chosen defect in this process, if it concerns the process."""
    chosen = os.environ.get(BREAK)
    if chosen is None:
        return
    processes, broken = BREAKS[chosen]
    if process in processes:
        broken()


def bill_from_the_clock() -> None:
    """Bill the time since the GPUs were bound, without evidence that the trainer ran."""
    from services.billing import evidence

    def elapsed_seconds(shown: float, bound_at: datetime | None, now: datetime) -> int:
        del shown
        return 0 if bound_at is None else int(max(0.0, (now - bound_at).total_seconds()))

    evidence.elapsed_seconds = elapsed_seconds


def skip_positions() -> None:
    """Apply some batches of events to a read model without their first event."""
    from projections.projection import Projection

    take, taken = Projection.take, 0

    def skipping(self: Projection, cursor: Any, batch: Sequence[Any]) -> None:
        nonlocal taken
        taken += 1
        take(self, cursor, batch[1:] if taken % SKIPPED == 0 else batch)

    Projection.take = skipping


def acknowledge_before_commit() -> None:
    """Save the position of a handler before the events that it causes."""
    from eventsourcing.persistence import Tracking

    from infrastructure.event_handlers import HandlerEffect

    def early(self: HandlerEffect, batch: Sequence[Any]) -> None:
        self._log.process_recorder.insert_tracking(Tracking(self.name, batch[-1].id))
        for item in batch:
            if item.topic in self._topics:
                self._handle_and_save(item, None)

    HandlerEffect.apply = early


def lead_together() -> None:
    """Lead although another process leads, and save without the check of the epoch."""
    from infrastructure.event_recorder import EventRecorder
    from infrastructure.leadership import Leadership

    append = EventRecorder._append

    def unchecked(self: EventRecorder, rows: Any, tracking: Any) -> Any:
        without = copy.copy(self)
        without.leadership = None
        return append(without, rows, tracking)

    EventRecorder._append = unchecked
    Leadership._holds_lock = lambda self: True
    Leadership.lost = lambda self, reason: None


def work_without_lease() -> None:
    """Train on after the end of the paid time, without a watchdog."""
    from domain.jobs.lifecycle import SegmentEnd
    from services.trainer.lease import Lease

    outcome = property(lambda self: SegmentEnd.STOPPED if self._stop else None)
    setattr(Lease, "outcome", outcome)  # noqa: B010
    setattr(Lease, "remaining_seconds", property(lambda self: math.inf))  # noqa: B010


BREAKS: dict[str, tuple[tuple[str, ...], Callable[[], None]]] = {
    "bill-from-clock": (("billing",), bill_from_the_clock),
    "skip-position": (("projector",), skip_positions),
    "acknowledge-before-commit": (("scheduler", "billing"), acknowledge_before_commit),
    "two-leaders": (("scheduler", "billing"), lead_together),
    "lost-lease": (("trainer",), work_without_lease),
}
"""The defects by name, each with the processes that have it."""
