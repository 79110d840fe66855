"""Job work that becomes due. The read models list it, and each job decides whether it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from uuid import UUID

from psycopg_pool import ConnectionPool

from domain.billing.account import Account
from domain.core.aggregate import Aggregate, Cause, because
from domain.core.event_log import EventLog
from domain.jobs.job import Job
from domain.use_cases.deployments import deployed_refs
from infrastructure.postgres.store import Connection
from infrastructure.process.clock import Clock
from projections.job_detail import due_relaunches, expired_adapters, suspended_jobs, unfinished_from
from services.scheduler.job_traces import in_trace_of


def continuing_jobs(pool: ConnectionPool[Connection], account_id: UUID, job_id: UUID) -> list[UUID]:
    """Return the IDs of an account's unfinished jobs that continue the model of a job."""
    with pool.connection() as connection:
        return unfinished_from(connection, account_id, job_id)


def claim_due(
    log: EventLog,
    clock: Clock,
    pool: ConnectionPool[Connection],
    claim: Callable[[Job], Sequence[Aggregate]],
) -> None:
    """Queue each job whose delayed relaunch is due. `claim` returns the aggregates to save."""

    def attempt(job_id: UUID) -> None:
        job = log.load(Job, job_id)
        cause = Cause("service:scheduler", f"relaunch:{job_id}:{job.segment}", clock.now())
        with because(cause), in_trace_of(log, job, "relaunch"):
            log.commit(*claim(job))

    with pool.connection() as connection:
        due = due_relaunches(connection, clock.now())
    _attempt_each(log, due, attempt)


def expire_due(log: EventLog, clock: Clock, pool: ConnectionPool[Connection]) -> None:
    """Expire the adapters whose retention time has ended. An event handler then deletes the files.

    EcoLink keeps a deployed adapter until it is undeployed, and one that unfinished jobs continue
    until they end.
    """

    def attempt(job_id: UUID) -> None:
        with because(Cause("service:scheduler", f"expire:{job_id}", clock.now())):
            job = log.load(Job, job_id)
            continued_by = continuing_jobs(pool, job.account_id, job_id)
            if continued_by or deployed_refs(log, job):
                return
            job.expire_adapter()
            log.commit(job)

    with pool.connection() as connection:
        due = expired_adapters(connection, clock.now())
    _attempt_each(log, due, attempt)


def pause_suspended(log: EventLog, clock: Clock, pool: ConnectionPool[Connection]) -> None:
    """Pause the jobs of suspended accounts. Their trainers save a checkpoint first."""

    def attempt(job_id: UUID) -> None:
        job = log.load(Job, job_id)
        if log.load(Account, job.account_id).suspension is None:  # reinstated in the meantime
            return
        with because(Cause("service:scheduler", f"suspend:{job_id}:{job.version}", clock.now())):
            job.suspend()
            log.commit(job)

    with pool.connection() as connection:
        found = suspended_jobs(connection)
    _attempt_each(log, found, attempt)


def _attempt_each(log: EventLog, job_ids: Iterable[UUID], attempt: Callable[[UUID], None]) -> None:
    """Run `attempt` for each job. If it fails, log the error. The next check retries."""
    for job_id in job_ids:
        try:
            log.retrying(partial(attempt, job_id))
        except Exception:
            logging.getLogger("due").exception("job %s failed; retrying later", job_id)
