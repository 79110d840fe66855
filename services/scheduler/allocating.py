"""Allocation of a pool's GPUs to the claims in its queue."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from uuid import UUID

from domain.capacity.gpu_pool import Claim, GpuPool
from domain.core.aggregate import Aggregate, current_cause
from domain.core.event_log import EventLog
from domain.jobs.job import Job
from domain.jobs.lifecycle import PauseReason
from infrastructure.bus.event_handlers import UNREACHABLE
from services.scheduler.funding import Funding
from services.scheduler.job_traces import in_trace_of

MOST_SERVED = 100
"""Maximum number of claims that one save serves. Each adds two or three of the save's events."""

MOST_SKIPPED = 10
"""Maximum number of claims in one save whose jobs cannot be loaded."""


class Allocation:
    """The claims of one pool that one save serves."""

    def __init__(self, log: EventLog, funding: Funding, pool: GpuPool) -> None:
        self._log = log
        self._funding = funding
        self._pool = pool
        self._skipped: set[UUID] = set()
        self._logger = logging.getLogger("allocating")

    def serve(self) -> Sequence[Aggregate]:
        """Serve the first claims that fit, up to MOST_SERVED. Return the aggregates to save.

        Other threads save a busy pool while this one loads jobs. So each further attempt for the
        same event serves a quarter of the claims.

        The claim of a job that cannot be loaded keeps its place in the queue, and the claims behind
        it do not wait for it. If there are more than MOST_SKIPPED, the jobs are not the cause:
        raise the error of the last one.
        """
        most = max(1, MOST_SERVED // 4 ** (current_cause().attempt - 1))
        jobs: list[Job] = []
        while len(jobs) < most and (claim := self._next_claim()) is not None:
            try:
                job = self._log.load(Job, claim.job_id)
                shortfall = self._funding.shortfall(job)
            except UNREACHABLE:
                raise
            except Exception:
                if len(self._skipped) < MOST_SKIPPED:
                    self._logger.exception("skipping the claim of job %s", claim.job_id)
                    self._skipped.add(claim.job_id)
                    continue
                if not jobs:
                    raise
                break
            self._serve_claim(claim, job, shortfall)
            jobs.append(job)
        return [self._pool, *jobs]

    def _next_claim(self) -> Claim | None:
        """Return a claim that would block the queue forever, or else the first one if it fits."""
        return self._pool.next_hopeless(self._skipped) or self._pool.next_fitting(self._skipped)

    def _serve_claim(self, claim: Claim, job: Job, shortfall: PauseReason | None) -> None:
        """Allocate GPUs, or pause a job that needs too many or cannot pay when its turn comes."""
        if job.next_segment != claim.segment:
            self._pool.withdraw(job.id)
        elif claim.count > self._pool.capacity:
            self._pool.withdraw(job.id)
            job.lose_capacity()
        elif shortfall is not None:
            self._pool.withdraw(job.id)
            job.deplete(shortfall)
        else:
            with in_trace_of(self._log, job, "allocate"):
                self._pool.allocate(claim, self._skipped)
                job.allocate_segment(claim.segment)
