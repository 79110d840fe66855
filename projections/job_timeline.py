"""The events of each job, its request, its meters and its deployments, in order.

Of the events of a deployment, only the first contains the job and the model. The projection copies
both to the rows of the later events: the job to `job_id`, and the model to `fields`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from domain.billing.meter import Meter
from domain.core.aggregate import Event
from domain.core.recorded import Recorded
from domain.deployments.deployment import Deployment
from domain.jobs import events
from domain.jobs.job import Job
from domain.jobs.job_request import JobRequest
from domain.jobs.lifecycle import JobStatus
from infrastructure.postgres.store import Connection
from projections.projection import Cursor, Projection, Row, fields_of, json_text, select

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

ENVELOPE = {*Event.model_fields, "originator_topic", "job_id"}


ADD = """
INSERT INTO job_timeline
SELECT event_id, added.job_id,
    coalesce(last.position, 0) + row_number() OVER (PARTITION BY added.job_id ORDER BY n),
    happened_at, topic, fields
FROM ROWS FROM (json_to_recordset(%s)
    AS (event_id text, job_id uuid, happened_at timestamptz, topic text, fields jsonb))
    WITH ORDINALITY AS added (event_id, job_id, happened_at, topic, fields, n)
LEFT JOIN LATERAL (SELECT position FROM job_timeline WHERE job_timeline.job_id = added.job_id
    ORDER BY position DESC LIMIT 1) AS last ON true
"""
"""A statement that adds events to the ends of their jobs' timelines."""


def apply(cursor: Cursor, batch: Sequence[Recorded]) -> None:
    """Add events to the timelines of their jobs."""
    rows: list[Row] = []
    deployments: dict[UUID, tuple[UUID | None, dict[str, str]]] = {}
    for each in batch:
        event, served = each.event, dict[str, str]()
        match event:
            case events.JobEvent():
                job_id = event.originator_id
            case Deployment.DeploymentRequested():
                job_id = event.job_id
                deployments[event.originator_id] = (
                    (None, {}) if job_id is None else (job_id, {"model": event.model})
                )
            case Deployment.Event():
                if event.originator_id not in deployments:
                    deployments[event.originator_id] = _served(cursor, event.originator_id)
                job_id, served = deployments[event.originator_id]
            case Meter.Event() | JobRequest.Event():
                job_id = event.job_id  # type: ignore[attr-defined]
            case _:
                continue
        if job_id is None:  # deployment of a base model
            continue
        rows.append(
            {
                "event_id": event.event_id,
                "job_id": job_id,
                "happened_at": event.timestamp,
                "topic": event.TOPIC,
                "fields": event.model_dump(mode="json", exclude=ENVELOPE) | served,
            }
        )
    if rows:
        cursor.execute(ADD, [json_text(rows)], prepare=False)  # as in `select`


def _served(cursor: Cursor, deployment_id: UUID) -> tuple[UUID | None, dict[str, str]]:
    """Return the job and the model of a deployment, from the stored row of its first event.

    Both are empty for a base model.
    """
    rows = select(
        cursor,
        "SELECT job_id, fields ->> 'model' AS model FROM job_timeline WHERE event_id = %s",
        f"{deployment_id}:1",
    )
    return (rows[0]["job_id"], {"model": rows[0]["model"]}) if rows else (None, {})


JOB_TIMELINE = Projection(
    "job_timeline",
    ("job_timeline",),
    DDL,
    (
        Job,
        Meter,
        JobRequest,
        Deployment,
    ),
    apply,
    contents=fields_of(events.JobEvent, Meter.Event, JobRequest.Event, Deployment.Event),
)


def timeline_of(
    connection: Connection, job_id: UUID, after: int = 0, limit: int | None = None
) -> list[Row]:
    """Return up to `limit` events of a job after a position, in order."""
    return connection.execute(
        "SELECT position, event_id, happened_at, topic, fields FROM job_timeline "
        "WHERE job_id = %s AND position > %s ORDER BY position LIMIT %s",
        [job_id, after, limit],
    ).fetchall()


ENDINGS = [events.Registered.TOPIC, events.JobFailed.TOPIC, events.JobCancelled.TOPIC]


def ended_at(connection: Connection, jobs: Sequence[Row]) -> dict[UUID, datetime]:
    """Return the end times of those of the given jobs that have ended, by job ID.

    While this projection is behind, use the time of the last change of the job's row.
    """
    over = {row["job_id"]: row["changed_at"] for row in jobs if JobStatus(row["status"]).is_final}
    rows = connection.execute(
        "SELECT job_id, max(happened_at) AS at FROM job_timeline "
        "WHERE job_id = ANY(%s) AND topic = ANY(%s) GROUP BY job_id",
        [list(over), ENDINGS],
    ).fetchall()
    return over | {row["job_id"]: row["at"] for row in rows}


def saved_at(connection: Connection, job_id: UUID) -> dict[str, datetime]:
    """Return the times at which a job's checkpoints were saved, by artifact prefix."""
    rows = connection.execute(
        "SELECT happened_at, fields ->> 'ref' AS ref FROM job_timeline "
        "WHERE job_id = %s AND topic = %s",
        [job_id, events.CheckpointSaved.TOPIC],
    ).fetchall()
    return {row["ref"]: row["happened_at"] for row in rows}
