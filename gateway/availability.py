"""How long GPU pools are taken, from the running jobs' own estimates and their progress."""

from __future__ import annotations

from datetime import datetime

from domain.availability import PoolLoad
from domain.estimate import Estimate, remaining
from domain.phases import Phase
from domain.progress import seconds_left
from domain.waiting import Occupied, Queued, wait_seconds
from gateway.backend import Backend
from gateway.freshness import caught_up
from infrastructure.measurements import last_step_of
from infrastructure.store import Connection
from projections import GPU_POOLS
from projections.gpu_pools import all_gpu_pools, pool_load
from projections.projection import Row

UNKNOWN_SECONDS = 600.0
"""What is assumed of a job without an estimate: approved by a version that made none."""


def pool_loads(backend: Backend) -> list[PoolLoad]:
    """Every pool with what runs in it and who waits for it, as the log has it now."""
    caught_up(backend, GPU_POOLS)
    now = backend.clock.now()
    with backend.pool.connection() as connection:
        return [
            _load(connection, pool["region"], pool["gpu_type"], pool["capacity"], now)
            for pool in all_gpu_pools(connection)
        ]


def wait_of(backend: Backend, job: Row) -> float | None:
    """Expected seconds until a job that stands in a queue gets its GPUs; None if unknown."""
    now = backend.clock.now()
    with backend.pool.connection() as connection:
        pools = all_gpu_pools(connection)
        place = (job["region"], job["gpu_type"])
        capacity = sum(p["capacity"] for p in pools if (p["region"], p["gpu_type"]) == place)
        held, queued = pool_load(connection, *place)
        before = [each["job_id"] for each in queued]
        ahead = queued[: before.index(job["job_id"])] if job["job_id"] in before else queued
        return wait_seconds(
            capacity,
            [Occupied(row["count"], _seconds_left(connection, row, now)) for row in held],
            [Queued(row["count"], _seconds(row)) for row in ahead],
            job["gpu_count"],
        )


def _load(
    connection: Connection, region: str, gpu_type: str, capacity: int, now: datetime
) -> PoolLoad:
    held, queued = pool_load(connection, region, gpu_type)
    return PoolLoad(
        region,
        gpu_type,
        capacity,
        running=tuple(Occupied(row["count"], _seconds_left(connection, row, now)) for row in held),
        queue=tuple(Queued(row["count"], _seconds(row)) for row in queued),
    )


def _seconds_left(connection: Connection, row: Row, now: datetime) -> float:
    """How long the segment of a row will still hold its GPUs."""
    if row["estimate"] is None:
        return UNKNOWN_SECONDS
    if row["bound_at"] is None:
        return _seconds(row)
    measured = last_step_of(connection, row["job_id"])
    began_at = row["step"] if row["segment_step"] is None else row["segment_step"]
    step = max(row["step"], measured["step"] if measured else 0)
    return seconds_left(
        _rest(row, began_at),
        (now - row["bound_at"]).total_seconds(),
        _phase(row),
        step,
        row["total_steps"] or 0,
    )


def _seconds(row: Row) -> float:
    """How long the whole next segment of a row will hold its GPUs."""
    if row["estimate"] is None:
        return UNKNOWN_SECONDS
    return sum(each.typical_seconds for each in _rest(row, row["step"]).phases)


def _rest(row: Row, step: int) -> Estimate:
    """The estimate of the segment that begins at a step."""
    whole = Estimate.model_validate(row["estimate"])
    total_steps = row["total_steps"] or whole.total_steps
    return remaining(
        whole,
        step=step,
        total_steps=total_steps,
        trained=step >= total_steps,
        rate_micros_per_hour=row["rate_micros_per_hour"],
    )


def _phase(row: Row) -> Phase | None:
    """The phase of a segment, as far as its job's events tell."""
    if row["status"] == "evaluating":
        return Phase.EVALUATION
    if row["status"] == "trained_pending_register":
        return Phase.REGISTER
    return Phase.TRAINING if row["training_since"] is not None else None
