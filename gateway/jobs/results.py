"""Results of finished jobs. Measurements are not events, so they can arrive late."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from domain.jobs.lifecycle import JobStatus
from gateway.backend import Backend
from gateway.http.read_your_writes import POLL_SECONDS, WAIT_SECONDS
from infrastructure.training.measurements import steps_taken
from projections.projection import Row

LATEST_MEASUREMENT = timedelta(minutes=1)
"""Time after the end of a job from which missing measurements count as lost."""


def has_results(row: Row) -> bool:
    """Return True if a job has ended after its training had started."""
    return JobStatus(row["status"]).is_final and row["total_steps"] is not None


def trained_tokens(
    backend: Backend, rows: Sequence[Row], ends: Mapping[UUID, datetime]
) -> dict[UUID, int]:
    """Return the trained tokens of finished jobs, by job ID.

    The result omits jobs with an unmeasured step. The call waits for a limited time for
    measurements that may still arrive.
    """
    steps = {row["job_id"]: _steps(row) for row in rows if row["job_id"] in ends}
    newest = backend.clock.now() - LATEST_MEASUREMENT
    awaited = {job_id for job_id, taken in steps.items() if taken and ends[job_id] > newest}
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        with backend.pool.connection() as connection:
            taken = steps_taken(connection, list(steps))
        whole = {each: it.tokens for each, it in taken.items() if it.steps >= steps[each]}
        if awaited <= whole.keys() or time.monotonic() >= deadline:
            return whole
        time.sleep(POLL_SECONDS)


def _steps(row: Row) -> int:
    if row["status"] == JobStatus.REGISTERED:
        return row["total_steps"] or 0
    return row["step"] or 0
