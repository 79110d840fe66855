"""Relaunching: jobs whose next launch was put off claim their GPUs once its time has come."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from uuid import UUID

from psycopg_pool import ConnectionPool

from domain.core.aggregate import Aggregate, Cause, because
from domain.core.event_log import EventLog
from domain.jobs.job import Job
from infrastructure.clock import Clock
from infrastructure.store import Connection
from projections.job_detail import due_relaunches
from services.scheduler.due import attempt_each

Claim = Callable[[Job], Sequence[Aggregate]]
"""What queues a job, or pauses it; the aggregates to save."""


class Relaunching:
    """Looks for what is due, so that neither a restart nor an event is needed for it."""

    def __init__(
        self, log: EventLog, clock: Clock, pool: ConnectionPool[Connection], claim: Claim
    ) -> None:
        self._log = log
        self._clock = clock
        self._pool = pool
        self._claim = claim
        self._logger = logging.getLogger("relaunching")

    def claim_due(self) -> None:
        """Queue every job that is due; the job decides, the query only looks."""
        with self._pool.connection() as connection:
            due = due_relaunches(connection, self._clock.now())
        attempt_each(self._log, due, self._claim_again, self._logger)

    def _claim_again(self, job_id: UUID) -> None:
        job = self._log.load(Job, job_id)
        cause = Cause("service:scheduler", f"relaunch:{job_id}:{job.segment}", self._clock.now())
        with because(cause):
            self._log.commit(*self._claim(job))
