"""Folds a read model anew, while it is read: for rows that a fold which is mended now has left."""

from __future__ import annotations

from psycopg import sql

from domain.event_log import EventLog
from infrastructure.consumer import BATCH_EVENTS, recorded
from infrastructure.store import Connection
from projections.projection import Projection, lock_position, set_position


def rebuild(connection: Connection, projection: Projection, log: EventLog) -> int:
    """Replace a projection's rows by a fold of the whole log, as one step; returns how many events.

    Until then readers see the rows as they were, and the projector waits.
    """
    events = position = 0
    with connection.transaction(), connection.cursor() as cursor:
        lock_position(cursor, projection)
        for table in projection.tables:
            cursor.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))
        while batch := log.recorder.select_notifications(
            start=position, limit=BATCH_EVENTS, inclusive_of_start=False
        ):
            for notification in batch:
                projection.apply(cursor, recorded(log, notification).event)
            events, position = events + len(batch), batch[-1].id
        # Never behind where it was: a batch that waited for the lock goes on from there.
        set_position(cursor, projection, position)
    return events
