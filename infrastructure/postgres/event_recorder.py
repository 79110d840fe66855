"""The recorder of the event store. It saves with one statement, and rejects former leaders.

A save is one call of the function `append_events`. PostgreSQL therefore never waits for the process
between the lock of the log and the commit: a process that freezes or loses its network cannot block
other writers. The function runs with the rights of its caller.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from eventsourcing.persistence import (
    IntegrityError,
    InterfaceError,
    Notification,
    OperationalError,
    PersistenceError,
    StoredEvent,
    Tracking,
)
from eventsourcing.postgres import PostgresProcessRecorder
from psycopg.rows import scalar_row

from infrastructure.postgres.leadership import LOST, Leadership
from infrastructure.postgres.primary import TIMELINE, Timeline, primary_timeline

DDL = """
CREATE OR REPLACE FUNCTION append_events(
    ids uuid[], versions bigint[], topics text[], states bytea[],
    leader text, in_epoch bigint, reader text, read_to bigint, in_timeline text
) RETURNS SETOF bigint
LANGUAGE plpgsql SET lock_timeout = '30s' SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF in_timeline <> left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) THEN
        RAISE EXCEPTION 'the database failed over to another server' USING ERRCODE = 'EL002';
    END IF;
    IF cardinality(ids) > 0 THEN
        -- Notification IDs must be in the order of the commits, so that no reader skips one.
        LOCK TABLE ecolink_events IN EXCLUSIVE MODE;
        NOTIFY ecolink_events;
    END IF;
    IF leader IS NOT NULL THEN
        -- While the lock is held, so that only one transaction locks the row.
        PERFORM require_lead(leader, in_epoch);
    END IF;
    IF reader IS NOT NULL THEN
        INSERT INTO ecolink_tracking AS known VALUES (reader, read_to)
        ON CONFLICT (application_name) DO UPDATE SET notification_id = read_to
        WHERE known.notification_id < read_to;
        IF NOT FOUND THEN
            RAISE EXCEPTION '% has already read to %', reader, read_to
                USING ERRCODE = 'unique_violation';
        END IF;
    END IF;
    IF cardinality(ids) > 0 THEN
        IF EXISTS (
            SELECT FROM (
                SELECT id, min(version) AS first FROM unnest(ids, versions) AS row (id, version)
                GROUP BY id
            ) AS saved
            WHERE first > 1 AND NOT EXISTS (
                SELECT FROM ecolink_events
                WHERE originator_id = id AND originator_version = first - 1
            )
        ) THEN
            RAISE EXCEPTION 'the log lacks the event before a saved one' USING ERRCODE = 'EL002';
        END IF;
        -- Even an empty INSERT would wait for the lock.
        RETURN QUERY
            INSERT INTO ecolink_events (originator_id, originator_version, topic, state)
            SELECT * FROM unnest(ids, versions, topics, states) RETURNING notification_id;
    END IF;
END $$
"""
"""Function that saves events, and the position of a reader, in one transaction.

It raises a unique violation if an event with the same version, or the position, is already stored,
LOST if another process leads, and FAILED_OVER if the server is not on the timeline, or the log
lacks the version before a saved one. It returns the notification IDs in the order of the events.
"""

FAILED_OVER = "EL002"
"""SQLSTATE of a save whose events follow from events that a failover of PostgreSQL lost."""

READ = f"""
SELECT timeline, notification_id, originator_id, originator_version, topic, state
FROM ({TIMELINE}) AS server LEFT JOIN (
    SELECT * FROM ecolink_events WHERE notification_id >= %s
    ORDER BY notification_id LIMIT %s
) AS read ON true
ORDER BY notification_id
"""
"""Query of events and of their server's timeline. Without events, one row has the timeline."""

APPEND = (
    "SELECT append_events(%b::uuid[], %b::bigint[], %b::text[], %b::bytea[], "
    "%s::text, %s::bigint, %s::text, %s::bigint, %s::text)"
)

ATTEMPTS = 10
PAUSE_SECONDS = 0.2
SAVE_SECONDS = 20.0
"""Number of attempts, the pause between them, and the time after which the last one starts.

An attempt may wait for a connection, for example until a standby is promoted.

Unlike the library, the recorder does not retry when the disk is full.
"""


class EventRecorder(PostgresProcessRecorder):
    """A recorder of events and positions. With `leadership`, only the leader can save.

    After a failover of PostgreSQL, the log may lack the last commits, on which an aggregate in
    memory depends. With `timeline`, the first saves after a failover therefore fail like a version
    conflict, and `on_failover` is called to drop cached aggregates.
    """

    leadership: Leadership | None = None
    timeline: Timeline | None = None
    on_failover: Callable[[], None] = staticmethod(lambda: None)

    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        """Save events in one transaction. Return their notification IDs.

        Raise OperationalError immediately if the disk is full, and after 2 to 30 s if the database
        is unreachable. Raise IntegrityError after a conflict or a failover. Exit the process if
        another process leads.
        """
        return self._saving(stored_events, kwargs.get("tracking"))

    def insert_tracking(self, tracking: Tracking) -> None:
        """Save only a position. Raise the same errors as `insert_events`."""
        self._saving((), tracking)

    def select_with_timeline(
        self, start: int | None, limit: int
    ) -> tuple[Sequence[Notification], Timeline | None]:
        """Return events from `start` on, and the timeline of their server (None: a standby).

        One query reads both, so that no failover can happen in between. Raise PersistenceError.
        """
        with self.datastore.get_connection() as connection:
            rows = connection.execute(READ, [start or 0, limit], prepare=True).fetchall()
        timeline = rows[0].pop("timeline")
        found = [
            Notification(
                id=row["notification_id"],
                originator_id=row["originator_id"],
                originator_version=row["originator_version"],
                topic=row["topic"],
                state=bytes(row["state"]),
            )
            for row in rows
            if row["notification_id"] is not None
        ]
        return found, None if timeline is None else Timeline.parsed(timeline)

    def _append(
        self, rows: Sequence[StoredEvent], tracking: Tracking | None, timeline: Timeline | None
    ) -> list[int]:
        """Save rows, as one binary array for each column, and a position."""
        lead, read = self.leadership, tracking
        values = [
            [row.originator_id for row in rows],
            [row.originator_version for row in rows],
            [row.topic for row in rows],
            [row.state for row in rows],
            *((None, None) if lead is None else (lead.name, lead.epoch)),
            *((None, None) if read is None else (read.application_name, read.notification_id)),
            None if timeline is None else timeline.file_prefix,
        ]
        with (
            self.datastore.get_connection() as connection,
            connection.cursor(binary=True, row_factory=scalar_row) as cursor,
        ):
            return cursor.execute(APPEND, values, prepare=True).fetchall()

    def _saving(self, rows: Sequence[StoredEvent], tracking: Tracking | None) -> list[int]:
        timeline = self.timeline  # of the state from which the events follow
        until = time.monotonic() + SAVE_SECONDS
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._append(rows, tracking, timeline)
            except PersistenceError as error:
                if sqlstate(error) == FAILED_OVER:
                    self._fail_over()
                    raise IntegrityError(str(error)) from error
                if self.leadership is not None and sqlstate(error) == LOST:
                    self.leadership.lost("PostgreSQL refused a save")
                transient = isinstance(error, (InterfaceError, OperationalError))
                last = attempt == ATTEMPTS or time.monotonic() > until
                if not transient or is_disk_full(error) or last:
                    raise
            time.sleep(PAUSE_SECONDS * random.uniform(0.95, 1.05))
        raise AssertionError("the last attempt returns or raises")

    def _fail_over(self) -> None:
        """Continue on the timeline of the new primary, without state from before."""
        with self.datastore.get_connection() as connection:
            if self.leadership is not None:
                self.leadership.confirm(connection)
            timeline = primary_timeline(connection)
        self.on_failover()
        self.timeline = timeline


def is_disk_full(error: BaseException) -> bool:
    """Return True if PostgreSQL ran out of disk space."""
    return sqlstate(error) == psycopg.errors.DiskFull.sqlstate


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE of an error or of its cause, or None."""
    for each in (error, error.__cause__):
        if isinstance(each, psycopg.Error):
            return each.sqlstate
    return None
