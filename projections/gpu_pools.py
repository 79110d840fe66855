"""GPU pools with their capacity, and the claims that hold GPUs or are queued."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import LiteralString
from uuid import UUID

from domain.capacity.gpu_pool import GpuPool
from domain.core.recorded import Recorded
from infrastructure.postgres.store import Connection
from projections.projection import Cursor, Projection, Row, json_text, update

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


ADD_CLAIMS = """
INSERT INTO gpu_claims
SELECT added.pool_id, job_id, segment, count, state,
    coalesce(last.position, 0) + row_number() OVER (PARTITION BY added.pool_id ORDER BY n)
FROM ROWS FROM (json_to_recordset(%s)
    AS (pool_id uuid, job_id uuid, segment integer, count integer, state text))
    WITH ORDINALITY AS added (pool_id, job_id, segment, count, state, n)
LEFT JOIN LATERAL (SELECT position FROM gpu_claims WHERE gpu_claims.pool_id = added.pool_id
    ORDER BY position DESC LIMIT 1) AS last ON true
"""
"""A statement that adds claims to the ends of their pools' queues."""

NAMED = "json_to_recordset(%s) AS named (job_id uuid, segment integer)"
IS_NAMED = "gpu_claims.job_id = named.job_id AND gpu_claims.segment = named.segment"
HOLD_CLAIMS = f"UPDATE gpu_claims SET state = '{HELD}' FROM {NAMED} WHERE {IS_NAMED}"
DROP_CLAIMS = f"""
DELETE FROM gpu_claims WHERE (job_id, segment) IN (SELECT job_id, segment FROM {NAMED})
"""

MOVE = """
UPDATE gpu_pools SET held = gpu_pools.held + moved.held, waiting = gpu_pools.waiting + moved.waiting
FROM json_to_recordset(%s) AS moved (pool_id uuid, held integer, waiting integer)
WHERE gpu_pools.pool_id = moved.pool_id
"""


def apply(cursor: Cursor, batch: Sequence[Recorded]) -> None:
    """Apply events to the tables. The order of changes of counts is irrelevant, as with sums."""
    claims = _Claims(cursor)
    held, waiting = Counter[UUID](), Counter[UUID]()
    for each in batch:
        match each.event:
            case GpuPool.GpuPoolOpened(originator_id=pool_id) as opened:
                cursor.execute(
                    "INSERT INTO gpu_pools VALUES (%s, %s, %s, 0, 0, 0)",
                    [pool_id, opened.region, opened.gpu_type],
                )
            case GpuPool.CapacityChanged(originator_id=pool_id, capacity=capacity):
                update(cursor, "gpu_pools", {"pool_id": pool_id}, capacity=capacity)
            case GpuPool.GpusRequested(originator_id=pool_id) as requested:
                claims.add(requested)
                waiting[pool_id] += 1
            case GpuPool.GpusRequestWithdrawn(originator_id=pool_id) as withdrawn:
                claims.drop((withdrawn.job_id, withdrawn.segment))
                waiting[pool_id] -= 1
            case GpuPool.GpusAllocated(originator_id=pool_id) as allocated:
                claims.hold((allocated.job_id, allocated.segment))
                held[pool_id] += allocated.count
                waiting[pool_id] -= 1
            case GpuPool.GpusReleased(originator_id=pool_id) as released:
                claims.drop((released.job_id, released.segment))
                held[pool_id] -= released.count
            case _:
                pass
    claims.write()
    if moved := held.keys() | waiting.keys():
        moves = [{"pool_id": id, "held": held[id], "waiting": waiting[id]} for id in moved]
        cursor.execute(MOVE, [json_text(moves)], prepare=False)


Segment = tuple[UUID, int]
"""The ID of a job, and the number of its segment, which make a claim."""


class _Claims:
    """The changes of claims that are not written yet: new ones, held ones, then dropped ones.

    A claim that is added after a dropped one needs the drop first, because its position follows the
    last claim.
    """

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._new: dict[Segment, Row] = {}
        self._held: list[Segment] = []
        self._dropped: list[Segment] = []

    def add(self, event: GpuPool.GpusRequested) -> None:
        """Add a claim to the end of the pool's queue."""
        claim = (event.job_id, event.segment)
        if self._dropped or claim in self._new:  # the table rejects a second claim
            self.write()
        self._new[claim] = {
            "pool_id": event.originator_id,
            "job_id": event.job_id,
            "segment": event.segment,
            "count": event.count,
            "state": QUEUED,
        }

    def hold(self, claim: Segment) -> None:
        """Store that a claim holds its GPUs."""
        if claim in self._new:
            self._new[claim]["state"] = HELD
        else:
            self._held.append(claim)

    def drop(self, claim: Segment) -> None:
        """Remove a claim."""
        self._dropped.append(claim)

    def write(self) -> None:
        """Write all changes."""
        if self._new:
            self._execute(ADD_CLAIMS, list(self._new.values()))
        if self._held:
            self._execute(HOLD_CLAIMS, _named(self._held))
        if self._dropped:
            self._execute(DROP_CLAIMS, _named(self._dropped))
        self._new, self._held, self._dropped = {}, [], []

    def _execute(self, statement: LiteralString, rows: list[Row]) -> None:
        self._cursor.execute(statement, [json_text(rows)], prepare=False)  # as in `select`


def _named(claims: Sequence[Segment]) -> list[Row]:
    return [{"job_id": job_id, "segment": segment} for job_id, segment in claims]


GPU_POOLS = Projection("gpu_pools", ("gpu_pools", "gpu_claims"), DDL, (GpuPool,), apply)


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


def skipped(connection: Connection, limit: int) -> list[Row]:
    """Return up to `limit` queued claims that do not have GPUs although it is their turn.

    Such a claim is the first of its queue and needs no more GPUs than are free, or it is before a
    claim that has GPUs. A row has the job_id, the count, and the region and gpu_type of the pool.
    """
    return connection.execute(
        "SELECT job_id, count, region, gpu_type FROM gpu_pools CROSS JOIN LATERAL ("
        "SELECT min(position) FILTER (WHERE state = %(queued)s) AS first, "
        "max(position) FILTER (WHERE state = %(held)s) AS last_served "
        "FROM gpu_claims WHERE gpu_claims.pool_id = gpu_pools.pool_id) AS ends "
        "JOIN gpu_claims USING (pool_id) WHERE state = %(queued)s "
        "AND (position < last_served OR position = first AND count <= capacity - held) "
        "ORDER BY pool_id, position LIMIT %(limit)s",
        {"queued": QUEUED, "held": HELD, "limit": limit},
    ).fetchall()


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
