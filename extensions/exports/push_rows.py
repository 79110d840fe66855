"""Pushes of exports to a hub."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from domain.core.aggregate import Event
from extensions.exports.domain.hub_push import HubPush, PushStatus
from infrastructure.postgres.store import Connection
from projections.projection import Cursor, Projection, Row, insert, one_by_one, update

DDL = """
CREATE TABLE IF NOT EXISTS hub_pushes (
    push_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    job_id uuid NOT NULL,
    model text NOT NULL,
    format text NOT NULL,
    manifest_sha256 text NOT NULL,
    total_bytes bigint NOT NULL,
    status text NOT NULL,
    commit_id text,
    failure_code text,
    requested_at timestamptz NOT NULL,
    ended_at timestamptz
);
CREATE INDEX IF NOT EXISTS hub_pushes_account ON hub_pushes (account_id, requested_at);
CREATE INDEX IF NOT EXISTS hub_pushes_pending ON hub_pushes (account_id, requested_at)
WHERE status = 'pending'
"""


def apply(cursor: Cursor, event: Event) -> None:
    """Apply one event to the table."""
    key = {"push_id": event.originator_id}
    match event:
        case HubPush.PushRequested():
            insert(
                cursor,
                "hub_pushes",
                **key,
                account_id=event.account_id,
                job_id=event.job_id,
                model=event.model,
                format=event.format,
                manifest_sha256=event.files.manifest_sha256,
                total_bytes=event.files.total_bytes,
                status=PushStatus.PENDING,
                requested_at=event.timestamp,
            )
        case HubPush.PushCompleted():
            ended = {"commit_id": event.commit, "ended_at": event.timestamp}
            update(cursor, "hub_pushes", key, status=PushStatus.COMPLETED, **ended)
        case HubPush.PushFailed():
            ended = {"failure_code": event.code, "ended_at": event.timestamp}
            update(cursor, "hub_pushes", key, status=PushStatus.FAILED, **ended)
        case HubPush.PushStopped():
            ended_at = event.timestamp
            update(cursor, "hub_pushes", key, status=PushStatus.STOPPED, ended_at=ended_at)
        case _:
            pass


HUB_PUSHES = Projection("hub_pushes", ("hub_pushes",), DDL, (HubPush,), one_by_one(apply), fold=2)


def pushes_of(
    connection: Connection, account_id: UUID, job_ids: Sequence[UUID] | None = None
) -> list[Row]:
    """Return the pushes of an account, newest first. `job_ids` restricts them to these models."""
    return connection.execute(
        "SELECT * FROM hub_pushes WHERE account_id = %s "
        "AND (%s::uuid[] IS NULL OR job_id = ANY(%s)) ORDER BY requested_at DESC, push_id",
        [account_id, *[None if job_ids is None else list(job_ids)] * 2],
    ).fetchall()


def pending_pushes(connection: Connection, without: Sequence[UUID]) -> list[Row]:
    """Return each account's oldest pending push, except for those in `without`."""
    return connection.execute(
        "SELECT DISTINCT ON (account_id) account_id, push_id FROM hub_pushes "
        "WHERE status = 'pending' AND NOT push_id = ANY(%s) "
        "ORDER BY account_id, requested_at, push_id",
        [list(without)],
    ).fetchall()


def stalled_seconds(connection: Connection, now: datetime) -> float:
    """Return the longest time in which no push of an account with pending ones has ended.

    It counts from the request of the oldest pending one if that is newer. Zero without any.
    """
    row = connection.execute(
        "SELECT coalesce(max(extract(epoch FROM %s - since)), 0) AS seconds FROM ("
        "SELECT greatest(min(requested_at) FILTER (WHERE status = 'pending'), max(ended_at)) "
        "AS since FROM hub_pushes "
        "WHERE account_id IN (SELECT account_id FROM hub_pushes WHERE status = 'pending') "
        "GROUP BY account_id) AS waiting",
        [now],
    ).fetchone()
    assert row is not None
    return float(row["seconds"])
