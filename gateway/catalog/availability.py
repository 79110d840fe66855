"""Load of the GPU pools, from the estimates and progress of running jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from domain.capacity.availability import PoolLoad
from domain.capacity.queue_eta import Occupied, Queued
from domain.catalog.catalog import Catalog
from domain.core.identity import CATALOG_ID
from domain.estimating.estimate import Estimate, remaining
from domain.estimating.progress import Steps, seconds_left
from domain.jobs.lifecycle import JobStatus
from domain.training.phases import Phase
from gateway.backend import Backend
from gateway.catalog.pool_claims import PoolClaims
from gateway.http.read_your_writes import WAIT_SECONDS, caught_up
from infrastructure.bus.exchange import read
from projections import GPU_POOLS
from projections.gpu_pools import HELD, all_gpu_pools, claims
from projections.job_detail import CANCELLING, PAUSING
from projections.projection import Row

UNKNOWN_SECONDS = 600.0
"""Assumed seconds of a job without an estimate."""


def pool_loads(backend: Backend) -> list[PoolLoad]:
    """Return every pool with its queue and jobs, which count as one if any job would fit."""
    with backend.pool.connection() as connection:
        pools = all_gpu_pools(connection)
    catalog = backend.log.load(Catalog, CATALOG_ID)
    most = {each.name: each.max_per_job for each in catalog.gpu_types.values()}
    return [_load(backend, pool, most.get(pool["gpu_type"], 0)) for pool in pools]


def _load(backend: Backend, pool: Row, most_per_job: int) -> PoolLoad:
    place = (pool["region"], pool["gpu_type"], pool["capacity"])
    free = pool["capacity"] - pool["held"]
    if pool["waiting"] == 0 and (free >= most_per_job or pool["held"] == 0):
        running = (Occupied(pool["held"], UNKNOWN_SECONDS),) if pool["held"] else ()
        return PoolLoad(*place, running, ())
    found = _claims(backend, pool)
    known_free = 0 if pool["waiting"] else max(0, free)
    return PoolLoad(*place, found.running, found.queue, known_free, found.waits)


def _claims(backend: Backend, pool: Row) -> PoolClaims:
    def read() -> PoolClaims:
        with backend.pool.connection() as connection:
            rows = claims(connection, pool["pool_id"])
        now = backend.clock.now()
        queued = [row["job_id"] for row in rows if row["state"] != HELD]
        return PoolClaims(pool["capacity"], _running(rows, now), _queue(rows), queued)

    return backend.pool_claims.get(pool["pool_id"], read)


def loads_now(backend: Backend, *, patience_seconds: float = WAIT_SECONDS) -> list[PoolLoad]:
    """Wait until the read models have caught up with the log. Then return every pool."""
    caught_up(backend, GPU_POOLS, patience_seconds=patience_seconds)
    return pool_loads(backend)


def waits_of(backend: Backend, jobs: Sequence[Row]) -> dict[UUID, float | None]:
    """Return the expected seconds until each queued job gets its GPUs; None if unknown."""
    waiting = [job for job in jobs if job["waiting_since"] is not None]
    if not waiting:
        return {}
    with backend.pool.connection() as connection:
        pools = {(row["region"], row["gpu_type"]): row for row in all_gpu_pools(connection)}
    now = backend.clock.now()
    return {job["job_id"]: _wait(backend, job, pools, now) for job in waiting}


def _wait(
    backend: Backend, job: Row, pools: Mapping[tuple[str, str], Row], now: datetime
) -> float | None:
    pool = pools.get((job["region"], job["gpu_type"]))
    wait = None if pool is None else _claims(backend, pool).wait_of(job["job_id"], job["gpu_count"])
    if wait is None or job["relaunch_at"] is None:
        return wait
    # The job joins the queue at that time.
    return max(wait, (job["relaunch_at"] - now).total_seconds())


def remaining_seconds(
    job: Row, last_step: Mapping[str, Any] | None, wait: float | None, now: datetime
) -> float | None:
    """Return the expected seconds until a job is registered.

    `wait` is the expected wait for GPUs in seconds. `last_step` has the metrics of the last
    optimizer step, if any. Return None for a job that is paused, finished, pausing or being
    cancelled, for a job without an estimate, or if the wait is unknown.
    """
    resting = JobStatus(job["status"]) is JobStatus.PAUSED or JobStatus(job["status"]).is_final
    if resting or job["phase"] in (PAUSING, CANCELLING) or job["estimate"] is None:
        return None
    if job["waiting_since"] is not None:
        return None if wait is None else wait + _seconds(job)
    measured = last_step or {}
    return _seconds_left(
        {
            **job,
            "measured_step": measured.get("step"),
            "measured_segment": measured.get("segment"),
            "measured_seconds": measured.get("elapsed_seconds"),
        },
        now,
    )


def _running(rows: Sequence[Row], now: datetime) -> tuple[Occupied, ...]:
    held = [row for row in rows if row["state"] == HELD]
    return tuple(Occupied(row["count"], _seconds_left(row, now)) for row in held)


def _queue(rows: Sequence[Row]) -> tuple[Queued, ...]:
    queued = [row for row in rows if row["state"] != HELD]
    return tuple(Queued(row["count"], _seconds(row)) for row in queued)


def _seconds_left(row: Row, now: datetime) -> float:
    if row["estimate"] is None:
        return UNKNOWN_SECONDS
    if row["bound_at"] is None:
        return _seconds(row)
    began_at = row["step"] if row["segment_step"] is None else row["segment_step"]
    return seconds_left(
        _rest(row, began_at),
        (now - row["bound_at"]).total_seconds(),
        _phase(row),
        _steps(row),
    )


def _steps(row: Row) -> Steps:
    began = row["training_since"]
    # A resumed segment may send the metrics of steps before its own, see services.trainer.unsent.
    here = row["measured_segment"] == row["segment"] and (row["measured_step"] or 0) > (
        row["segment_step"] or 0
    )
    return Steps(
        done=max(row["step"], row["measured_step"] or 0),
        total=row["total_steps"] or 0,
        began_seconds=None if began is None else (began - row["bound_at"]).total_seconds(),
        last_seconds=row["measured_seconds"] if here else None,
    )


def _seconds(row: Row) -> float:
    if row["estimate"] is None:
        return UNKNOWN_SECONDS
    rest = _rest(row, row["step"])
    return sum(each.typical_seconds for each in rest.phases)


def _rest(row: Row, step: int) -> Estimate:
    whole = read(Estimate, row["estimate"])
    total_steps = row["total_steps"] or whole.total_steps
    return remaining(
        whole,
        step=step,
        total_steps=total_steps,
        trained=step >= total_steps,
        rate_micros_per_hour=row["rate_micros_per_hour"],
    )


def _phase(row: Row) -> Phase | None:
    if row["status"] == "evaluating":
        return Phase.EVALUATION
    if row["status"] == "trained_pending_register":
        return Phase.REGISTER
    return Phase.TRAINING if row["training_since"] is not None else None
