"""Index of the event log by account and by job.

The log has the content of an event. An event's sequence is its notification ID, which increases
along the log and has gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from eventsourcing.persistence import Notification

from domain.core.recorded import Recorded
from domain.deployments.deployment import Deployment
from domain.jobs.events import job_of
from infrastructure.extensions import aggregates
from infrastructure.postgres.store import EVENTS_TABLE, Connection
from projections.projection import Cursor, Projection, Row, insert_rows, lowest_position, select

DDL = """
CREATE TABLE IF NOT EXISTS account_events (
    sequence bigint PRIMARY KEY,
    account_id uuid NOT NULL,
    job_id uuid
);
CREATE INDEX IF NOT EXISTS account_events_account ON account_events (account_id, sequence);
CREATE INDEX IF NOT EXISTS account_events_job ON account_events (job_id, sequence)
    WHERE job_id IS NOT NULL
"""


MAX_NEWEST = 5000
"""Maximum number of index entries that `newest_events` reads."""


@dataclass(frozen=True)
class EventFilter:
    """A filter of events by account and job. A field that is None matches all."""

    account_id: UUID | None
    job_id: UUID | None = None

    def includes(self, account_id: UUID, job_id: UUID | None) -> bool:
        """Return True if an event of this account, and of this job if any, passes the filter."""
        return self.account_id in (None, account_id) and self.job_id in (None, job_id)


def apply(cursor: Cursor, batch: Sequence[Recorded]) -> None:
    """Add events to the index. Their notification IDs are their sequences."""
    rows: list[Row] = []
    deployments: dict[UUID, UUID | None] = {}  # their jobs
    for each in batch:
        event = each.event
        job_id = job_of(event)
        if isinstance(event, Deployment.DeploymentRequested):
            deployments[event.originator_id] = job_id
        elif isinstance(event, Deployment.Event):
            if event.originator_id not in deployments:
                deployments[event.originator_id] = _job_of_deployment(cursor, event.originator_id)
            job_id = deployments[event.originator_id]
        rows.append({"sequence": each.id, "account_id": event.account_id, "job_id": job_id})
    insert_rows(cursor, "account_events", rows)


def _job_of_deployment(cursor: Cursor, deployment_id: UUID) -> UUID | None:
    """Return the job of a deployment whose first event is indexed."""
    (row,) = select(
        cursor,
        f"SELECT job_id FROM account_events JOIN public.{EVENTS_TABLE} "
        "ON notification_id = sequence WHERE originator_id = %s AND originator_version = 1",
        deployment_id,
    )
    return row["job_id"]


ACCOUNT_EVENTS = Projection("account_events", ("account_events",), DDL, aggregates(), apply)


def indexed_events(
    connection: Connection, interest: EventFilter, after: int, limit: int
) -> tuple[Sequence[Notification], int]:
    """Return events after a sequence, in order, and the last sequence in the index.

    The log may contain later events that are not indexed yet. If the result has `limit` events, the
    index may contain more.
    """
    known = lowest_position(connection, [ACCOUNT_EVENTS])
    wanted = {"account_id": interest.account_id, "job_id": interest.job_id}
    given = {name: value for name, value in wanted.items() if value is not None}
    conditions = "".join(f" AND {name} = %({name})s" for name in given)
    rows = connection.execute(
        f"SELECT log.* FROM account_events JOIN public.{EVENTS_TABLE} AS log "  # type: ignore[arg-type]
        f"ON notification_id = sequence WHERE sequence > %(after)s{conditions} "
        "ORDER BY sequence LIMIT %(limit)s",
        given | {"after": after, "limit": limit},
    ).fetchall()
    found = [_notification(row) for row in rows]
    return found, max([known, after, *(item.id for item in found[-1:])])


def events_named(connection: Connection, event_ids: Sequence[str]) -> dict[str, Notification]:
    """Return events of the log by their IDs, `<originator id>:<version>`.

    The result omits unknown IDs.
    """
    rows = connection.execute(
        f"SELECT log.* FROM unnest(%s::text[]) AS event_id JOIN public.{EVENTS_TABLE} AS log "  # type: ignore[arg-type]
        "ON originator_id = split_part(event_id, ':', 1)::uuid "
        "AND originator_version = split_part(event_id, ':', 2)::int",
        [list(event_ids)],
    ).fetchall()
    found = [_notification(row) for row in rows]
    return {f"{each.originator_id}:{each.originator_version}": each for each in found}


def newest_events(
    connection: Connection, account_id: UUID, job_id: UUID, topics: Sequence[str], limit: int
) -> tuple[list[Notification], int]:
    """Return the events of a job in order, and the last sequence in the index.

    The result contains all events of the job and of its deployments, except those in `topics`, and
    other events about the job, such as those of its meters. The latter are among the job's last
    5,000 events. Events in `topics` are included only if they are among the last `limit`, because a
    long job has tens of thousands of metered minutes.
    """
    known = lowest_position(connection, [ACCOUNT_EVENTS])
    rows = connection.execute(
        f"SELECT log.* FROM (SELECT sequence, row_number() OVER (ORDER BY sequence DESC) AS n "  # type: ignore[arg-type]
        "FROM account_events WHERE job_id = %(job)s AND account_id = %(account)s "
        "AND sequence <= %(known)s ORDER BY sequence DESC LIMIT %(max_newest)s) AS newest "
        f"JOIN public.{EVENTS_TABLE} AS log ON notification_id = sequence "
        "WHERE n <= %(limit)s OR log.topic <> ALL(%(topics)s) "
        f"UNION SELECT log.* FROM public.{EVENTS_TABLE} AS log JOIN account_events "
        "ON sequence = notification_id WHERE originator_id IN (SELECT %(job)s::uuid UNION ALL "
        "SELECT deployment_id FROM deployments WHERE job_id = %(job)s) "
        "AND account_id = %(account)s "
        "AND sequence <= %(known)s AND topic <> ALL(%(topics)s) ORDER BY notification_id",
        {
            "job": job_id,
            "account": account_id,
            "known": known,
            "max_newest": MAX_NEWEST,
            "limit": limit,
            "topics": list(topics),
        },
    ).fetchall()
    return [_notification(row) for row in rows], known


def _notification(row: Row) -> Notification:
    return Notification(
        id=row["notification_id"],
        originator_id=row["originator_id"],
        originator_version=row["originator_version"],
        topic=row["topic"],
        state=bytes(row["state"]),
    )
