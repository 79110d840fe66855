"""GPU pools with their capacity, and the claims that hold GPUs or are queued."""

from __future__ import annotations

from uuid import UUID

from domain.capacity.gpu_pool import GpuPool
from domain.core.aggregate import Event
from infrastructure.store import Connection
from projections.projection import Cursor, Projection, Row, one_by_one, update

DDL = """
CREATE TABLE IF NOT EXISTS gpu_pools (
    pool_id uuid PRIMARY KEY,
    region text NOT NULL,
    gpu_type text NOT NULL,
    capacity integer NOT NULL,
    held integer NOT NULL,
    waiting integer NOT NULL
);
CREATE TABLE IF NOT EXISTS gpu_claims (
    pool_id uuid NOT NULL,
    job_id uuid NOT NULL,
    segment integer NOT NULL,
    count integer NOT NULL,
    state text NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (job_id, segment)
);
CREATE INDEX IF NOT EXISTS gpu_claims_pool ON gpu_claims (pool_id, position)
"""

QUEUED, HELD = "queued", "held"


def apply(cursor: Cursor, event: Event) -> None:
    """Apply one event to the table."""
    match event:
        case GpuPool.GpuPoolOpened():
            cursor.execute(
                "INSERT INTO gpu_pools VALUES (%s, %s, %s, 0, 0, 0)",
                [event.originator_id, event.region, event.gpu_type],
            )
        case GpuPool.CapacityChanged():
            update(cursor, "gpu_pools", {"pool_id": event.originator_id}, capacity=event.capacity)
        case GpuPool.GpusRequested():
            _request(cursor, event)
            _move(cursor, event, held=0, waiting=1)
        case GpuPool.GpusRequestWithdrawn():
            _drop(cursor, event)
            _move(cursor, event, held=0, waiting=-1)
        case GpuPool.GpusAllocated():
            claim = {"job_id": event.job_id, "segment": event.segment}
            update(cursor, "gpu_claims", claim, state=HELD)
            _move(cursor, event, held=event.count, waiting=-1)
        case GpuPool.GpusReleased():
            _drop(cursor, event)
            _move(cursor, event, held=-event.count, waiting=0)
        case _:
            pass


def _request(cursor: Cursor, event: GpuPool.GpusRequested) -> None:
    """Add a claim to the end of the pool's queue."""
    cursor.execute(
        "INSERT INTO gpu_claims SELECT %(pool)s, %(job)s, %(segment)s, %(count)s, %(state)s, "
        "coalesce(max(position), 0) + 1 FROM gpu_claims WHERE pool_id = %(pool)s",
        {
            "pool": event.originator_id,
            "job": event.job_id,
            "segment": event.segment,
            "count": event.count,
            "state": QUEUED,
        },
    )


def _drop(cursor: Cursor, event: GpuPool.GpusRequestWithdrawn | GpuPool.GpusReleased) -> None:
    cursor.execute(
        "DELETE FROM gpu_claims WHERE job_id = %s AND segment = %s", [event.job_id, event.segment]
    )


def _move(cursor: Cursor, event: Event, held: int, waiting: int) -> None:
    cursor.execute(
        "UPDATE gpu_pools SET held = held + %s, waiting = waiting + %s WHERE pool_id = %s",
        [held, waiting, event.originator_id],
    )


GPU_POOLS = Projection("gpu_pools", ("gpu_pools", "gpu_claims"), DDL, (GpuPool,), one_by_one(apply))


def all_gpu_pools(connection: Connection) -> list[Row]:
    """Return the rows of all pools, sorted by region and GPU type."""
    return connection.execute("SELECT * FROM gpu_pools ORDER BY region, gpu_type").fetchall()


def first_queued(connection: Connection) -> dict[UUID, int]:
    """Return the number of GPUs that the first queued claim of each pool needs, by pool ID."""
    rows = connection.execute(
        "SELECT DISTINCT ON (pool_id) pool_id, count FROM gpu_claims WHERE state = %s "
        "ORDER BY pool_id, position",
        [QUEUED],
    ).fetchall()
    return {row["pool_id"]: row["count"] for row in rows}


def capacities(connection: Connection) -> dict[tuple[str, str], int]:
    """Return the capacities of all pools by (region, GPU type)."""
    return {
        (pool["region"], pool["gpu_type"]): pool["capacity"] for pool in all_gpu_pools(connection)
    }


def claims(connection: Connection, pool_id: UUID) -> list[Row]:
    """Return the claims of a pool by position, with the columns that determine their wait.

    A row has job_id, segment, count and state (`held` or `queued`). The columns of the job are
    status, phase, rate_micros_per_hour, the approved estimate (JSON), step (of the last checkpoint
    or the start of the segment) and total_steps. The last measured step is measured_step, in
    measured_segment at measured_seconds. A segment that holds GPUs has bound_at, training_since and
    segment_step, which is the step after which it started training. The columns of the job are None
    while its projection is behind.
    """
    return connection.execute(
        "SELECT job_id, gpu_claims.segment, gpu_claims.count, state, status, phase, "
        "rate_micros_per_hour, estimate, "
        "job_detail.step, measured.step AS measured_step, measured.segment AS measured_segment, "
        "measured.elapsed_seconds AS measured_seconds, total_steps, bound_at, training_since, "
        "segment_step FROM gpu_claims LEFT JOIN job_detail USING (job_id) "
        "LEFT JOIN LATERAL (SELECT step, segment, elapsed_seconds FROM step_measurements AS each "
        "WHERE each.job_id = gpu_claims.job_id ORDER BY segment DESC, step DESC LIMIT 1) "
        "AS measured ON true WHERE pool_id = %s ORDER BY position",
        [pool_id],
    ).fetchall()
