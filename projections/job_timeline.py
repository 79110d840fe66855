"""The story of each job: its own events and its meters', in the order of the log."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from psycopg.types.json import Jsonb

from domain.aggregate import Event
from domain.job import Job
from domain.lifecycle import JobStatus
from domain.meter import Meter
from infrastructure.store import Connection
from projections.projection import Cursor, Projection, Row

DDL = """
CREATE TABLE IF NOT EXISTS job_timeline (
    event_id text PRIMARY KEY,
    job_id uuid NOT NULL,
    position bigint NOT NULL,
    happened_at timestamptz NOT NULL,
    topic text NOT NULL,
    fields jsonb NOT NULL,
    UNIQUE (job_id, position)
)
"""

ENVELOPE = frozenset(Event.model_fields) | {"originator_topic", "job_id"}


def apply(cursor: Cursor, event: Event) -> None:
    """Add one event to its job's story."""
    if isinstance(event, Job.Event):
        job_id = event.originator_id
    elif isinstance(event, Meter.Event):
        job_id = event.job_id  # type: ignore[attr-defined]
    else:
        return
    cursor.execute(
        "INSERT INTO job_timeline SELECT %(event)s, %(job)s, "
        "coalesce(max(position), 0) + 1, %(at)s, %(topic)s, %(fields)s "
        "FROM job_timeline WHERE job_id = %(job)s",
        {
            "event": event.event_id,
            "job": job_id,
            "at": event.timestamp,
            "topic": event.TOPIC,
            "fields": Jsonb(event.model_dump(mode="json", exclude=set(ENVELOPE))),
        },
    )


JOB_TIMELINE = Projection("job_timeline", ("job_timeline",), DDL, apply)


def timeline_of(
    connection: Connection, job_id: UUID, after: int = 0, limit: int | None = None
) -> list[Row]:
    """A job's events after a position within it, in order, at most so many."""
    return connection.execute(
        "SELECT position, event_id, happened_at, topic, fields FROM job_timeline "
        "WHERE job_id = %s AND position > %s ORDER BY position LIMIT %s",
        [job_id, after, limit],
    ).fetchall()


ENDINGS = [Job.Registered.TOPIC, Job.JobFailed.TOPIC, Job.JobCancelled.TOPIC]


def ended_at(connection: Connection, jobs: Sequence[Row]) -> dict[UUID, datetime]:
    """When jobs were registered, failed or were cancelled, of the rows of those that are over.

    While this projection is behind that of the rows, their last change is the end.
    """
    over = {row["job_id"]: row["changed_at"] for row in jobs if JobStatus(row["status"]).is_final}
    rows = connection.execute(
        "SELECT job_id, max(happened_at) AS at FROM job_timeline "
        "WHERE job_id = ANY(%s) AND topic = ANY(%s) GROUP BY job_id",
        [list(over), ENDINGS],
    ).fetchall()
    return over | {row["job_id"]: row["at"] for row in rows}


def saved_at(connection: Connection, job_id: UUID) -> dict[str, datetime]:
    """When each checkpoint of a job was saved, by its ref."""
    rows = connection.execute(
        "SELECT happened_at, fields ->> 'ref' AS ref FROM job_timeline "
        "WHERE job_id = %s AND topic = %s",
        [job_id, Job.CheckpointSaved.TOPIC],
    ).fetchall()
    return {row["ref"]: row["happened_at"] for row in rows}
