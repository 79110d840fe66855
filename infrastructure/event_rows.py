"""Rows of the event store as they are stored, for seals and audits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg.rows import args_row

from domain.audit.sealed_event import StoredRow

COLUMNS = "coalesce(notification_id, 0), uuid_send(originator_id), originator_version, topic, state"
FETCHED_ROWS = 5_000


def read_rows(connection: psycopg.Connection[Any], after: int, limit: int) -> list[StoredRow]:
    """Return up to `limit` events after a notification id, in the order of the log."""
    with connection.cursor(row_factory=args_row(StoredRow), binary=True) as cursor:
        cursor.execute(
            f"SELECT {COLUMNS} FROM ecolink_events WHERE notification_id > %s "
            "ORDER BY notification_id LIMIT %s",
            [after, limit],
        )
        return cursor.fetchall()


def stream_rows(connection: psycopg.Connection[Any]) -> Iterator[StoredRow]:
    """Yield every row, in the order of the log, in one transaction.

    Rows with an id that no log has, such as a negative one, also come, because aggregates would
    load them.
    """
    with (
        connection.transaction(),
        connection.cursor("event_rows", row_factory=args_row(StoredRow), binary=True) as cursor,
    ):
        cursor.itersize = FETCHED_ROWS
        cursor.execute(f"SELECT {COLUMNS} FROM ecolink_events ORDER BY 1")
        yield from cursor
