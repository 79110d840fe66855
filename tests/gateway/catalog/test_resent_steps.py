"""Metrics of steps before a resumed segment, which the segment sends again, and its progress."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.catalog.availability import _steps
from gateway.jobs.overruns import _step_seconds

BOUND = datetime(2026, 11, 29, tzinfo=UTC)
ROW: dict[str, Any] = {
    "bound_at": BOUND,
    "training_since": BOUND + timedelta(seconds=5),
    "segment": 2,
    "segment_step": 20,
    "step": 20,
    "total_steps": 30,
}


def measured(step: int, seconds: float) -> dict[str, Any]:
    return {"measured_segment": 2, "measured_step": step, "measured_seconds": seconds}


def test_a_resent_step_does_not_count_as_one_of_the_segment() -> None:
    assert _steps(ROW | measured(20, 3.0)).last_seconds is None
    assert _steps(ROW | measured(21, 8.0)).last_seconds == 8.0
    step = {"segment": 2, "step": 20, "elapsed_seconds": 3.0}
    assert _step_seconds(ROW, step, 5.0) is None
    assert _step_seconds(ROW, step | {"step": 22, "elapsed_seconds": 9.0}, 5.0) == 2.0
