"""Queues that do not move because too few GPUs are free, and queued jobs that are skipped."""

from __future__ import annotations

from extensions.alerts.checks.surroundings import Surroundings
from extensions.alerts.domain.cause import Finding
from extensions.alerts.domain.parameters import Parameters
from projections.gpu_pools import all_gpu_pools, first_queued, skipped
from projections.projection import Row

MOST_SKIPPED = 100
"""Maximum number of skipped jobs that a check finds."""


def exhausted(around: Surroundings, _: Parameters) -> list[Finding]:
    """Return the pools whose first queued job needs more GPUs than are free.

    A queue is first in, first out, so all jobs behind the first one wait too.
    """
    needed = first_queued(around.connection)
    return [
        Finding(
            {
                "pool": f"{pool['region']}/{pool['gpu_type']}",
                "region": pool["region"],
                "gpu_type": pool["gpu_type"],
            },
            _text(pool, needed[pool["pool_id"]]),
        )
        for pool in all_gpu_pools(around.connection)
        if needed.get(pool["pool_id"], 0) > pool["capacity"] - pool["held"]
    ]


def skipped_jobs(around: Surroundings, _: Parameters) -> list[Finding]:
    """Return the queued jobs that do not get GPUs although it is their turn.

    The scheduler skips a job that it cannot load, so that other jobs need not wait for it.
    """
    return [
        Finding(
            {
                "job": str(claim["job_id"]),
                "region": claim["region"],
                "gpu_type": claim["gpu_type"],
            },
            f"Job {claim['job_id']} is queued for {claim['count']:,} {claim['gpu_type']} in "
            f"{claim['region']}. It is its turn, but it gets none. See the scheduler's log.",
        )
        for claim in skipped(around.connection, MOST_SKIPPED)
    ]


def _text(pool: Row, needed: int) -> str:
    """Return a sentence about a pool whose first queued job needs this number of GPUs."""
    free = max(0, pool["capacity"] - pool["held"])
    queued = f"{pool['waiting']:,} {'job is' if pool['waiting'] == 1 else 'jobs are'} queued"
    place = f"{pool['gpu_type']} in {pool['region']}"
    if free == 0:
        return f"All {pool['capacity']:,} {place} are in use, and {queued}."
    return (
        f"{free:,} of {pool['capacity']:,} {place} {'is' if free == 1 else 'are'} free, the next "
        f"job needs {needed:,} GPUs, and {queued}."
    )
