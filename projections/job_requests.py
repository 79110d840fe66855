"""Job requests, which are jobs that wait for the validation of their files.

The table keeps the rows of approved requests, because a job's creation time is that of its request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from psycopg.types.json import Jsonb

from domain.core.aggregate import Event
from domain.jobs.job_request import JobRequest, RequestStatus
from infrastructure.postgres.store import Connection, scalar
from projections.job_detail import FINAL, Choice
from projections.projection import (
    SEARCHED_IDS,
    Cursor,
    NewestFirst,
    Projection,
    Row,
    insert,
    one_by_one,
    update,
)

DDL = """
CREATE TABLE IF NOT EXISTS job_requests (
    job_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    requested_at timestamptz NOT NULL,
    status text NOT NULL,
    base_model text NOT NULL,
    region text,
    gpu_type text
);
CREATE INDEX IF NOT EXISTS job_requests_account ON job_requests (account_id, requested_at);
CREATE INDEX IF NOT EXISTS job_requests_open ON job_requests (requested_at)
    WHERE status = 'validating_files'
"""
# region and gpu_type are null if EcoLink chooses them at the approval.


def apply(cursor: Cursor, event: Event) -> None:
    """Apply one event to the table."""
    match event:
        case JobRequest.JobRequested():
            insert(
                cursor,
                "job_requests",
                job_id=event.job_id,
                account_id=event.account_id,
                requested_at=event.timestamp,
                status=RequestStatus.VALIDATING_FILES,
                base_model=event.base_model,
                region=event.region,
                gpu_type=event.gpu_type,
            )
        case JobRequest.JobRequestApproved():
            _end(cursor, event.job_id, RequestStatus.APPROVED)
        case JobRequest.JobRequestRefused():
            _end(cursor, event.job_id, RequestStatus.FAILED)
        case JobRequest.JobRequestCancelled():
            _end(cursor, event.job_id, RequestStatus.CANCELLED)
        case _:
            pass


def _end(cursor: Cursor, job_id: UUID, status: RequestStatus) -> None:
    update(cursor, "job_requests", {"job_id": job_id}, status=status)


JOB_REQUESTS = Projection("job_requests", ("job_requests",), DDL, (JobRequest,), one_by_one(apply))


def open_requests(connection: Connection) -> list[UUID]:
    """Return the job IDs of all open requests, oldest first."""
    rows = connection.execute(
        "SELECT job_id FROM job_requests WHERE status = 'validating_files' "
        "ORDER BY requested_at, job_id"
    ).fetchall()
    return [row["job_id"] for row in rows]


def open_requests_by_account(connection: Connection, choice: Choice) -> list[Row]:
    """Return the numbers of open requests that can get a choice, by account.

    A row has the account_id, the number of requests with the choice (`requested`), and of those for
    which EcoLink may choose it (`unplaced`).
    """
    return connection.execute(
        "SELECT account_id, count(*) FILTER (WHERE chosen) AS requested, "
        "count(*) FILTER (WHERE NOT chosen) AS unplaced FROM (SELECT account_id, "
        "(%(region)s::text IS NULL OR region IS NOT NULL) "
        "AND (%(gpu_type)s::text IS NULL OR gpu_type IS NOT NULL) AS chosen "
        "FROM job_requests WHERE status = 'validating_files' "
        "AND (%(region)s::text IS NULL OR coalesce(region, %(region)s) = %(region)s) "
        "AND (%(gpu_type)s::text IS NULL OR coalesce(gpu_type, %(gpu_type)s) = %(gpu_type)s) "
        "AND (%(base_model)s::text IS NULL OR base_model = %(base_model)s)) AS open "
        "GROUP BY account_id ORDER BY account_id",
        vars(choice),
    ).fetchall()


def requests_by_status(connection: Connection, account_id: UUID) -> dict[RequestStatus, int]:
    """Return the numbers of an account's requests that have no job, by status."""
    rows = connection.execute(
        "SELECT status, count(*) AS requests FROM job_requests "
        "WHERE account_id = %s AND status <> 'approved' GROUP BY status",
        [account_id],
    ).fetchall()
    return {RequestStatus(row["status"]): row["requests"] for row in rows}


def newest_requests(
    connection: Connection, account_id: UUID, statuses: Sequence[RequestStatus], limit: int
) -> list[Row]:
    """Return up to `limit` requests of an account in these states, newest first."""
    return connection.execute(
        "SELECT * FROM job_requests WHERE account_id = %s AND status = ANY(%s) "
        "ORDER BY requested_at DESC, job_id LIMIT %s",
        [account_id, list(statuses), limit],
    ).fetchall()


def requested_at(connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, datetime]:
    """Return the times at which the given jobs were requested, by job ID.

    The result omits jobs without a request.
    """
    rows = connection.execute(
        "SELECT job_id, requested_at FROM job_requests WHERE job_id = ANY(%s)", [list(job_ids)]
    ).fetchall()
    return {row["job_id"]: row["requested_at"] for row in rows}


NEWEST_ORDERS = NewestFirst(
    """(
        SELECT job_id, account_id, requested_at AS ordered_at FROM job_requests
        UNION ALL
        SELECT job_id, account_id, approved_at FROM job_detail
        WHERE NOT EXISTS (SELECT FROM job_requests AS each WHERE each.job_id = job_detail.job_id)
    )""",
    time="ordered_at",
    key="job_id",
)


def ordered_jobs(
    connection: Connection,
    account_id: UUID,
    after: UUID | None,
    limit: int,
    metadata: Mapping[str, str] | None = None,
) -> list[UUID]:
    """Return up to `limit` jobs and requests of an account after the job `after`, newest first.

    `metadata` selects the jobs whose metadata include these entries. An empty mapping selects the
    jobs without metadata.
    """
    condition: LiteralString = "true"
    if metadata:
        condition = "row.job_id IN (SELECT job_id FROM job_metadata WHERE metadata @> %(entries)s)"
    elif metadata is not None:
        condition = (
            "NOT EXISTS (SELECT FROM job_metadata AS each "
            "WHERE each.job_id = row.job_id AND each.metadata <> '{}')"
        )
    entries = Jsonb(dict(metadata or {}))
    rows = NEWEST_ORDERS.page(connection, account_id, after, limit, condition, entries=entries)
    return [row["job_id"] for row in rows]


UNFINISHED: LiteralString = """
SELECT (SELECT count(*) FROM job_detail WHERE account_id = %(account)s AND status <> ALL(%(final)s))
    + (SELECT count(*) FROM job_requests
        WHERE account_id = %(account)s AND status = 'validating_files')
    + (SELECT count(*) FROM projection_positions AS read JOIN ecolink_events AS event
        ON notification_id > greatest(read.position,
            (SELECT max(notification_id) FROM ecolink_events) - %(searched)s)
        WHERE (read.name, event.topic)
            IN (('job_detail', 'JobApproved'), ('job_requests', 'JobRequested'))
        AND convert_from(event.state, 'UTF8')::json ->> 'account_id' = %(account)s::text)
"""


def unfinished_jobs(connection: Connection, account_id: UUID) -> int:
    """Return the number of an account's unfinished jobs and open requests.

    It includes those that the projections have not processed, like `newest_needed`.
    """
    values = {"account": account_id, "final": FINAL, "searched": SEARCHED_IDS}
    return scalar(connection, UNFINISHED, values)
