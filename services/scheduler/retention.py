"""Retention: what is deleted after its time, because no event names it, or for want of space."""

from __future__ import annotations

import logging
from datetime import timedelta
from uuid import UUID

from psycopg_pool import ConnectionPool

from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from domain.jobs.job import Job
from domain.use_cases.deployments import deployed_refs
from infrastructure import security_log
from infrastructure.artifacts import Artifacts
from infrastructure.clock import Clock
from infrastructure.disk_cache import GIB, MODELS, trim_copies, trim_kernels
from infrastructure.measurements import delete_log_lines
from infrastructure.settings import Settings
from infrastructure.store import Connection
from projections.job_detail import expired_adapters, logged_jobs_over_since
from services.scheduler.due import attempt_each
from services.scheduler.segment_spec import job_prefix

SAVED = ("checkpoints", "adapter")
"""Folders of what a job's trainers save, each with one for every segment."""

LOGS_AT_ONCE = 100
"""Jobs whose log lines are deleted in one transaction."""


class Retention:
    """Says which adapters expired; the reaction to that event deletes the files."""

    def __init__(self, log: EventLog, clock: Clock, pool: ConnectionPool[Connection]) -> None:
        self._log = log
        self._clock = clock
        self._pool = pool
        self._logger = logging.getLogger("retention")

    def expire_due(self) -> None:
        """Expire adapters whose time is over; the job decides, the query only looks."""
        with self._pool.connection() as connection:
            due = expired_adapters(connection, self._clock.now())
        attempt_each(self._log, due, self._expire, self._logger)

    def _expire(self, job_id: UUID) -> None:
        with because(Cause("service:scheduler", f"expire:{job_id}", self._clock.now())):
            job = self._log.load(Job, job_id)
            if deployed_refs(self._log, job):
                return  # what is served is kept; its time comes when it is undeployed
            job.expire_adapter()
            self._log.commit(job)


def delete_saved(artifacts: Artifacts, job: Job) -> None:
    """Delete what a job's trainers saved, except their logs; again, it finds nothing."""
    for folder in SAVED:
        artifacts.delete_directory(f"{job_prefix(job)}/{folder}")


def delete_unnamed(log: EventLog, artifacts: Artifacts, job: Job, segment: int) -> None:
    """Delete what the trainer of a segment that is over stored and no event names.

    It was killed while it stored it, or nobody heard of it in time: nobody would ever ask for it.
    """
    named = _named_refs(log, job)
    stored = {
        ref.rpartition("/")[0]
        for folder in SAVED
        for ref in artifacts.list(f"{job_prefix(job)}/{folder}/segment-{segment}")
    }
    for directory in sorted(stored - named):
        artifacts.delete_directory(directory)


def _named_refs(log: EventLog, job: Job) -> set[str]:
    """The directories that the job's events name, also those that later events have deleted."""
    refs: set[str] = set()
    for event in log.events.get(job.id):
        match event:
            case Job.CheckpointSaved():
                refs.add(event.ref)
            case Job.Registered():
                refs.add(event.adapter_ref)
            case _:
                pass
    return refs


def delete_old_logs(pool: ConnectionPool[Connection], clock: Clock, kept: timedelta) -> None:
    """Delete the log lines of jobs that are over for longer than they are kept.

    They are no events, and nothing is told by them alone: measurements and artifacts stay.
    """
    over_since = clock.now() - kept
    with pool.connection() as connection:
        while job_ids := logged_jobs_over_since(connection, over_since, LOGS_AT_ONCE):
            with connection.transaction():
                delete_log_lines(connection, job_ids)


def delete_security_events(pool: ConnectionPool[Connection], kept: timedelta) -> None:
    """Delete the security events that are older than they are kept."""
    with pool.connection() as connection:
        security_log.delete_older(connection, kept)


def trim_caches(settings: Settings) -> None:
    """Delete what this machine's caches have above their limits; it is made again when needed."""
    copies = trim_copies(settings.cache / MODELS, round(settings.cache_gib * GIB))
    kernels = trim_kernels(settings.compiled, round(settings.compiled_gib * GIB))
    for what, deleted in (("copies of base models", copies), ("files of the compiler", kernels)):
        if deleted.count:
            logging.getLogger("retention").info(
                "%s: deleted %d, %.1f GiB, used least recently; %.1f GiB are left",
                what,
                deleted.count,
                deleted.bytes / GIB,
                deleted.left_bytes / GIB,
            )
