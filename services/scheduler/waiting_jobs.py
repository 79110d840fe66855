"""Queues the jobs that stayed out of the queue until their account had money again."""

from __future__ import annotations

from psycopg_pool import ConnectionPool

from domain.aggregate import Cause, because
from domain.event_log import EventLog
from domain.job import Job
from infrastructure.clock import Clock
from infrastructure.store import Connection
from projections.job_detail import jobs_waiting_for_gpu
from services.scheduler.handlers import Scheduling


class WaitingJobs:
    """Looks for jobs that need a segment and have no claim: a top-up names no job."""

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        pool: ConnectionPool[Connection],
        scheduling: Scheduling,
    ) -> None:
        self._log = log
        self._clock = clock
        self._pool = pool
        self._scheduling = scheduling

    def claim_all(self) -> None:
        """Make every claim that is missing and can be paid; one that stands is not made twice."""
        with self._pool.connection() as connection:
            waiting = jobs_waiting_for_gpu(connection)
        for job_id in waiting:
            self._log.retrying(lambda job_id=job_id: self._claim(self._log.load(Job, job_id)))

    def _claim(self, job: Job) -> None:
        command_id = f"claim:{job.id}:{job.next_segment}:{self._clock.now().isoformat()}"
        with because(Cause("service:scheduler", command_id, self._clock.now())):
            self._log.commit(*self._scheduling.claim(job))
