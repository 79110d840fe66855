"""Rows of the event store that a replay of charges needs, read without any read model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import args_row, scalar_row

from domain.audit.sealed_event import StoredRow
from extensions.invoices.domain.invoice import Period
from extensions.invoices.domain.money_events import MeterOpened, read
from extensions.invoices.domain.what_if import CHARGES, JOBS, METERS
from infrastructure.postgres.event_rows import COLUMNS, FETCHED_ROWS

MARGIN = timedelta(days=1)
"""Longest time between a timestamp and its commit, up to which the log is in order of time."""


def charge_rows(connection: psycopg.Connection[Any], period: Period) -> Iterator[StoredRow]:
    """Yield the charges of a period with the events that determine their rates, in log order.

    Charges up to `2 * MARGIN` outside the period can be included. This reads only the part of the
    log that has the period's charges, and the streams of their meters and jobs. Raise Inconsistent
    if an event cannot be read.
    """
    with connection.transaction():
        bounds = {
            "first": _first(connection, lambda moment: moment + MARGIN >= period.start),
            "end": _first(connection, lambda moment: moment - MARGIN >= period.end),
            "charges": list(CHARGES),
            "opened": list(METERS),
            "approved": list(JOBS),
        }
        meters = _meters(connection, bounds)
        jobs = _jobs_of(connection, meters)
        with connection.cursor(
            "charge_rows", row_factory=args_row(StoredRow), binary=True
        ) as cursor:
            cursor.itersize = FETCHED_ROWS
            cursor.execute(
                f"SELECT {COLUMNS} FROM ecolink_events "
                "WHERE (topic = ANY(%(charges)s) "
                "AND notification_id >= %(first)s AND notification_id < %(end)s) "
                "OR (originator_id = ANY(%(meters)s) AND topic = ANY(%(opened)s)) "
                "OR (originator_id = ANY(%(jobs)s) AND topic = ANY(%(approved)s)) "
                "ORDER BY notification_id",
                {**bounds, "meters": meters, "jobs": jobs},
            )
            yield from cursor


def _first(connection: psycopg.Connection[Any], reached: Callable[[datetime], bool]) -> int:
    """Return the notification ID of the first event whose timestamp meets a condition.

    Without one, return the ID after the last event. This is a binary search, so that it reads few
    events.
    """
    with connection.cursor(row_factory=scalar_row) as cursor:
        cursor.execute("SELECT coalesce(max(notification_id), 0) FROM ecolink_events")
        low, end = 1, (cursor.fetchone() or 0) + 1
    with connection.cursor(row_factory=args_row(StoredRow), binary=True) as cursor:
        while low < end:
            middle = (low + end) // 2
            cursor.execute(
                f"SELECT {COLUMNS} FROM ecolink_events WHERE notification_id >= %s "
                "ORDER BY notification_id LIMIT 1",
                [middle],
            )
            row = cursor.fetchone()
            if row is None or reached(read(row).event.timestamp):
                end = middle
            else:
                low = row.notification_id + 1
    return low


def _meters(connection: psycopg.Connection[Any], bounds: Mapping[str, object]) -> list[UUID]:
    with connection.cursor(row_factory=scalar_row) as cursor:
        cursor.execute(
            "SELECT DISTINCT originator_id FROM ecolink_events WHERE topic = ANY(%(charges)s) "
            "AND notification_id >= %(first)s AND notification_id < %(end)s",
            bounds,
        )
        return cursor.fetchall()


def _jobs_of(connection: psycopg.Connection[Any], meters: list[UUID]) -> list[UUID]:
    with connection.cursor(row_factory=args_row(StoredRow), binary=True) as cursor:
        cursor.execute(
            f"SELECT {COLUMNS} FROM ecolink_events "
            "WHERE originator_id = ANY(%s) AND topic = ANY(%s)",
            [meters, list(METERS)],
        )
        events = [read(row).event for row in cursor]
    return list({each.job_id for each in events if isinstance(each, MeterOpened)})
