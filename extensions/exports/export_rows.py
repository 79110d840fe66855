"""Exports of models, one row for each model and format."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from domain.core.aggregate import Event
from extensions.exports.domain.export import Export, ExportStatus
from infrastructure.postgres.store import Connection
from projections.projection import Cursor, Projection, Row, insert, one_by_one, update

Attempt = tuple[UUID, int]
"""Export ID and number of the attempt."""

DDL = """
CREATE TABLE IF NOT EXISTS exports (
    export_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    job_id uuid NOT NULL,
    model text NOT NULL,
    format text NOT NULL,
    status text NOT NULL,
    attempt integer NOT NULL,
    ref text,
    manifest_sha256 text,
    total_bytes bigint,
    failure_code text,
    failure_message text,
    requested_at timestamptz NOT NULL,
    ended_at timestamptz,
    expires_at timestamptz
);
CREATE INDEX IF NOT EXISTS exports_account ON exports (account_id, requested_at);
CREATE INDEX IF NOT EXISTS exports_pending ON exports (account_id, requested_at)
WHERE status = 'pending';
CREATE INDEX IF NOT EXISTS exports_expiring ON exports (expires_at) WHERE status = 'ready'
"""

EMPTY = {
    "ref": None,
    "manifest_sha256": None,
    "total_bytes": None,
    "failure_code": None,
    "failure_message": None,
    "expires_at": None,
}
"""Columns of an export without files."""


def apply(cursor: Cursor, event: Event) -> None:
    """Apply one event to the table."""
    key = {"export_id": event.originator_id}
    match event:
        case Export.ExportRequested():
            insert(
                cursor,
                "exports",
                **key,
                account_id=event.account_id,
                job_id=event.job_id,
                model=event.model,
                format=event.format,
                status=ExportStatus.PENDING,
                attempt=1,
                requested_at=event.timestamp,
            )
        case Export.ExportRenewed():
            renewed = {"attempt": event.attempt, "requested_at": event.timestamp, "ended_at": None}
            update(cursor, "exports", key, status=ExportStatus.PENDING, **EMPTY, **renewed)
        case Export.ExportCompleted(files=files):
            update(
                cursor,
                "exports",
                key,
                status=ExportStatus.READY,
                ref=files.ref,
                manifest_sha256=files.manifest_sha256,
                total_bytes=files.total_bytes,
                ended_at=event.timestamp,
                expires_at=event.expires_at,
            )
        case Export.ExportFailed():
            update(
                cursor,
                "exports",
                key,
                status=ExportStatus.FAILED,
                failure_code=event.code,
                failure_message=event.message,
                ended_at=event.timestamp,
            )
        case Export.ExportExpired():
            ended = {"ended_at": event.timestamp}
            update(cursor, "exports", key, status=ExportStatus.EXPIRED, **EMPTY, **ended)
        case Export.ExportDeleted():
            ended = {"ended_at": event.timestamp}
            update(cursor, "exports", key, status=ExportStatus.DELETED, **EMPTY, **ended)
        case _:
            pass


EXPORTS = Projection("exports", ("exports",), DDL, (Export,), one_by_one(apply))


def exports_of(
    connection: Connection, account_id: UUID, job_ids: Sequence[UUID] | None = None
) -> list[Row]:
    """Return the exports of an account that are not deleted, newest first.

    `job_ids` restricts them to the models of these jobs.
    """
    return connection.execute(
        "SELECT * FROM exports WHERE account_id = %s AND status <> 'deleted' "
        "AND (%s::uuid[] IS NULL OR job_id = ANY(%s)) ORDER BY requested_at DESC, export_id",
        [account_id, *[None if job_ids is None else list(job_ids)] * 2],
    ).fetchall()


def wanted_exports(connection: Connection, account_id: UUID) -> int:
    """Return the number of an account's exports that are pending or ready."""
    row = connection.execute(
        "SELECT count(*) AS exports FROM exports "
        "WHERE account_id = %s AND status IN ('pending', 'ready')",
        [account_id],
    ).fetchone()
    assert row is not None
    return row["exports"]


def pending_exports(connection: Connection, without: Sequence[Attempt]) -> list[Row]:
    """Return each account's oldest pending export, except for the attempts in `without`."""
    return connection.execute(
        "SELECT DISTINCT ON (account_id) account_id, export_id, attempt FROM exports "
        "WHERE status = 'pending' AND NOT EXISTS (SELECT FROM unnest(%s::uuid[], %s::integer[]) "
        "AS left_out (id, number) WHERE id = export_id AND number = attempt) "
        "ORDER BY account_id, requested_at, export_id",
        [[id for id, _ in without], [number for _, number in without]],
    ).fetchall()


def stalled_seconds(connection: Connection, now: datetime) -> float:
    """Return the longest time in which no export of an account with pending ones has ended.

    It counts from the request of the oldest pending one if that is newer. Zero without any.
    """
    row = connection.execute(
        "SELECT coalesce(max(extract(epoch FROM %s - since)), 0) AS seconds FROM ("
        "SELECT greatest(min(requested_at) FILTER (WHERE status = 'pending'), "
        "max(ended_at) FILTER (WHERE status IN ('ready', 'failed'))) AS since FROM exports "
        "WHERE account_id IN (SELECT account_id FROM exports WHERE status = 'pending') "
        "GROUP BY account_id) AS waiting",
        [now],
    ).fetchone()
    assert row is not None
    return float(row["seconds"])


def expired_exports(connection: Connection, now: datetime) -> list[UUID]:
    """Return the exports whose retention time has ended."""
    rows = connection.execute(
        "SELECT export_id FROM exports WHERE status = 'ready' AND expires_at <= %s", [now]
    ).fetchall()
    return [row["export_id"] for row in rows]
