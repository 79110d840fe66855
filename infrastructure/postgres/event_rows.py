"""Rows of the event store as they are stored, for seals and audits."""

from __future__ import annotations

from collections.abc import Collection, Generator
from typing import Any, LiteralString

import psycopg
from psycopg.rows import args_row, tuple_row

from domain.audit.sealed_event import StoredRow

COLUMNS = (
    "coalesce(notification_id, 0), coalesce(uuid_send(originator_id), ''), "
    "coalesce(originator_version, 0), coalesce(topic, ''), coalesce(state, '')"
)
"""A missing value, which only a superuser can store, is read as an empty one."""

FETCHED_ROWS = 5_000
STREAMED_ROWS = 500


def read_rows(
    connection: psycopg.Connection[Any],
    after: int,
    limit: int,
    *,
    topics: Collection[str] | None = None,
    until: int | None = None,
) -> list[StoredRow]:
    """Return up to `limit` events after a notification id, in the order of the log.

    `topics` and the last notification id, `until`, restrict them.
    """
    condition: LiteralString = "notification_id > %(after)s"
    if topics is not None:
        condition += " AND topic = ANY(%(topics)s)"
    if until is not None:
        condition += " AND notification_id <= %(until)s"
    with connection.cursor(row_factory=args_row(StoredRow), binary=True) as cursor:
        cursor.execute(
            f"SELECT {COLUMNS} FROM ecolink_events WHERE {condition} "
            "ORDER BY notification_id LIMIT %(limit)s",
            {"after": after, "topics": sorted(topics or ()), "until": until, "limit": limit},
        )
        return cursor.fetchall()


def stream_rows(
    connection: psycopg.Connection[Any], after: int = 0
) -> Generator[tuple[int, bytes, int, str, bytes]]:
    """Yield the rows after a notification id, in the order of the log, in one transaction.

    Close it if you do not read all rows: until then, nothing else can use the connection.

    Each has the columns of StoredRow. Without `after`, rows with an id that no log has also come,
    such as a negative one or none, because aggregates would load them.
    """
    condition = "WHERE notification_id > %(after)s" if after else ""
    with connection.transaction(), connection.cursor(row_factory=tuple_row, binary=True) as cursor:
        yield from cursor.stream(
            f"SELECT {COLUMNS} FROM ecolink_events {condition} ORDER BY notification_id",
            {"after": after},
            size=STREAMED_ROWS,
        )
