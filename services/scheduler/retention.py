"""Deletion of expired files and rows, of files that no event names, and of excess cache files."""

from __future__ import annotations

import logging
from datetime import timedelta

from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from domain.jobs import events
from domain.jobs.job import Job
from infrastructure.accounts import security_log
from infrastructure.artifacts.disk_cache import GIB, MODELS, trim_copies, trim_kernels
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.store import Connection
from infrastructure.process.clock import Clock
from infrastructure.settings import Settings
from infrastructure.training.job_artifacts import job_prefix
from infrastructure.training.measurements import delete_log_lines
from projections.job_detail import logged_jobs_over_since

SAVED = ("checkpoints", "adapter")
"""Directories in which trainers save, with one subdirectory per segment."""

LOGS_AT_ONCE = 100
"""Number of jobs for which one transaction deletes the log lines."""


def delete_saved(artifacts: Artifacts, job: Job) -> None:
    """Delete all checkpoints and adapters of a job, but not its logs. Idempotent."""
    for folder in SAVED:
        artifacts.delete_directory(f"{job_prefix(job)}/{folder}")


def delete_unnamed(log: EventLog, artifacts: Artifacts, job: Job, segment: int) -> None:
    """Delete files that the trainer of an ended segment stored but that no event names.

    Such files exist if the trainer was killed while it stored them, or if its report was too late.
    """
    named: set[str] = set()
    for event in log.events.get(job.id):
        if isinstance(event, events.CheckpointSaved):
            named.add(event.ref)
        elif isinstance(event, events.Registered):
            named.add(event.adapter_ref)
    stored = {
        ref.rpartition("/")[0]
        for folder in SAVED
        for ref in artifacts.list(f"{job_prefix(job)}/{folder}/segment-{segment}")
    }
    for directory in sorted(stored - named):
        artifacts.delete_directory(directory)


def delete_old_logs(pool: ConnectionPool[Connection], clock: Clock, kept: timedelta) -> None:
    """Delete the log lines of jobs that ended more than `kept` ago, but no metrics or artifacts."""
    over_since = clock.now() - kept
    with pool.connection() as connection:
        while job_ids := logged_jobs_over_since(connection, over_since, LOGS_AT_ONCE):
            with connection.transaction():
                delete_log_lines(connection, job_ids)


def delete_security_events(pool: ConnectionPool[Connection], kept: timedelta) -> None:
    """Delete the security events that are older than `kept`."""
    with pool.connection() as connection:
        security_log.delete_older(connection, kept)


def trim_caches(settings: Settings) -> None:
    """Evict the least recently used files of this machine's caches above their size limits."""
    copies = trim_copies(settings.cache / MODELS, settings.model_cache_bytes)
    kernels = trim_kernels(settings.compiled, settings.kernel_cache_bytes)
    for what, deleted in (("copies of base models", copies), ("compiled kernels", kernels)):
        if deleted.count:
            logging.getLogger("retention").info(
                "deleted %d %s (%.1f GiB), least recently used first; %.1f GiB left",
                deleted.count,
                what,
                deleted.bytes / GIB,
                deleted.left_bytes / GIB,
            )
