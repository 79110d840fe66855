"""Rebuilding of a read model in new tables, which then replace the old ones.

During a rebuild, readers use the old tables, and the projector keeps them up to date. The rebuild
fills the new tables in a separate schema, batch by batch. A short transaction then replaces the old
tables and the position. If a rebuild is killed, the old tables remain, and the next rebuild starts
from the beginning.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import psycopg
from eventsourcing.persistence import Notification
from psycopg import sql

from domain.core.errors import WrongState
from domain.core.event_log import EventLog
from infrastructure.consumer import BATCH_EVENTS, recorded
from infrastructure.schema_change import LOCK_MILLISECONDS
from infrastructure.store import Connection, connect_to
from projections import PROJECTIONS
from projections.projection import Cursor, Projection, lock_positions, set_positions

PAUSE_SECONDS = 0.2
SWAP_SECONDS = 600.0
"""Seconds after which the swap gives up if readers keep locking the old tables."""

LOCK_CLASS = 0xEC1
"""First key of the advisory locks. The second key is the hash of the projection's name."""

Progress = Callable[[str, int, float], None]
"""A function that receives a projection's name, the number of applied events, and their share.

The share (0 to 1) is that of all events of the log.
"""


def rebuild(owner_url: str, projection: Projection, log: EventLog, progress: Progress) -> int:
    """Rebuild a projection from the whole log. Return the number of events that it needs.

    `owner_url` is the database URL of the tables' owner. Raise WrongState if another rebuild is
    running.
    """
    with connect_to(owner_url) as connection, _alone(connection, projection):
        return _Rebuild(connection, projection, log, progress).run()


def fold_all(owner_url: str, log: EventLog, progress: Callable[[int], object]) -> int:
    """Fill the empty tables of all projections in one pass over the log. Return the events.

    Nothing else may use the tables. `progress` receives the notification ID of the last applied
    event. A pass for each projection, as in `rebuild`, would decode every event as often.
    """
    position = events = 0
    with connect_to(owner_url) as connection:
        connection.execute("SET synchronous_commit TO off")
        while batch := log.recorder.select_notifications(
            start=position, limit=BATCH_EVENTS, inclusive_of_start=False
        ):
            with (
                connection.pipeline(),
                connection.transaction(),
                connection.cursor() as cursor,
            ):
                events_of_batch = [recorded(log, notification) for notification in batch]
                for projection in PROJECTIONS:
                    projection.take(cursor, events_of_batch)
            position, events = batch[-1].id, events + len(batch)
            progress(position)
        with connection.transaction(), connection.cursor() as cursor:
            connection.execute("SET LOCAL synchronous_commit TO on")
            lock_positions(cursor, PROJECTIONS)
            set_positions(cursor, PROJECTIONS, position)
    return events


@contextmanager
def _alone(connection: Connection, projection: Projection) -> Generator[None]:
    lock = [LOCK_CLASS, projection.name]
    row = connection.execute("SELECT pg_try_advisory_lock(%s, hashtext(%s)) AS held", lock)
    if not (row.fetchone() or {}).get("held"):
        raise WrongState(f"{projection.name} is already being rebuilt. Wait for the other rebuild.")
    yield
    connection.execute("SELECT pg_advisory_unlock(%s, hashtext(%s))", lock)


class _Rebuild:
    def __init__(
        self, connection: Connection, projection: Projection, log: EventLog, progress: Progress
    ) -> None:
        self._connection = connection
        self._projection = projection
        self._log = log
        self._progress = progress
        self._schema_name = f"rebuild_{projection.name}"
        self._schema = sql.Identifier(self._schema_name)
        self._events = self._position = 0
        self._head = log.recorder.max_notification_id() or 0

    def run(self) -> int:
        self._create()
        self._fold()
        for table in self._projection.tables:
            self._execute("ANALYZE {}.{}", self._schema, sql.Identifier(table))
        deadline = time.monotonic() + SWAP_SECONDS
        while not self._swapped():
            if time.monotonic() > deadline:
                raise WrongState(
                    f"Readers locked {self._projection.name} for {SWAP_SECONDS:.0f} s, so its old "
                    "tables stay. Try again when no audit or backup runs."
                )
            time.sleep(PAUSE_SECONDS)
            self._fold()
        return self._events

    def _create(self) -> None:
        """Create the new tables. Drop those of an earlier attempt."""
        with self._connection.transaction():
            self._execute("DROP SCHEMA IF EXISTS {} CASCADE", self._schema)
            self._execute("CREATE SCHEMA {}", self._schema)
            self._execute("SET LOCAL search_path TO {}", self._schema)
            self._connection.execute(self._projection.ddl.encode())
        self._execute("SET search_path TO {}, public", self._schema)
        # A rebuild that crashes starts over, so only the swap must wait for the disk.
        self._execute("SET synchronous_commit TO off")

    def _fold(self) -> None:
        """Apply the events of the log, with one transaction for each batch."""
        while batch := self._after(self._position):
            with (
                self._connection.pipeline(),  # send statements without waiting for results
                self._connection.transaction(),
                self._connection.cursor() as cursor,
            ):
                self._apply(cursor, batch)
            self._events, self._position = self._events + len(batch), batch[-1].id
            share = min(1.0, self._position / max(self._head, 1))
            self._progress(self._projection.name, self._events, share)
            if len(batch) < BATCH_EVENTS:
                return

    def _swapped(self) -> bool:
        """Replace the old tables. Return False if a reader locks one of them."""
        try:
            with self._connection.transaction(), self._connection.cursor() as cursor:
                self._execute(f"SET LOCAL lock_timeout TO '{LOCK_MILLISECONDS}ms'")
                self._execute("SET LOCAL synchronous_commit TO on")
                lock_positions(cursor, [self._projection])
                events, position = self._fold_rest(cursor)
                for table in self._projection.tables:
                    self._replace(table)
                self._record(position)
                self._execute("DROP SCHEMA {}", self._schema)
        except psycopg.errors.LockNotAvailable:
            return False
        self._events = events
        return True

    def _fold_rest(self, cursor: Cursor) -> tuple[int, int]:
        """Apply the events up to the current end of the log. The projector applies later events.

        Return the number of all applied events, and the new position.
        """
        events, position = self._events, self._position
        head = self._log.recorder.max_notification_id() or 0
        while batch := self._after(position, head):
            self._apply(cursor, batch)
            events, position = events + len(batch), batch[-1].id
        return events, head

    def _replace(self, table: str) -> None:
        old, new = sql.Identifier("public", table), sql.Identifier(self._schema_name, table)
        found = self._connection.execute("SELECT to_regclass(%s) AS oid", [f"public.{table}"])
        if (found.fetchone() or {}).get("oid") is not None:
            self._execute("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", old)
            self._copy_grants(table, new)
            self._execute("DROP TABLE {}", old)
        self._execute("ALTER TABLE {} SET SCHEMA public", new)

    def _copy_grants(self, table: str, new: sql.Identifier) -> None:
        rows = self._connection.execute(
            "SELECT rolname, privilege_type FROM pg_class, aclexplode(relacl) AS acl "
            "JOIN pg_roles ON pg_roles.oid = acl.grantee "
            "WHERE pg_class.oid = to_regclass(%s) AND grantee <> relowner",
            [f"public.{table}"],
        ).fetchall()
        for row in rows:
            right, role = sql.SQL(row["privilege_type"]), sql.Identifier(row["rolname"])
            self._execute("GRANT {} ON {} TO {}", right, new, role)

    def _record(self, position: int) -> None:
        name = self._projection.name
        self._connection.execute(
            "UPDATE projection_positions SET position = %s WHERE name = %s", [position, name]
        )
        self._connection.execute(
            "INSERT INTO projection_shapes VALUES (%s, %s) "
            "ON CONFLICT (name) DO UPDATE SET ddl_sha256 = excluded.ddl_sha256",
            [name, self._projection.shape],
        )

    def _after(self, position: int, stop: int | None = None) -> Sequence[Notification]:
        """Return the next events that the projection needs."""
        return self._log.recorder.select_notifications(
            start=position,
            stop=stop,
            limit=BATCH_EVENTS,
            topics=sorted(self._projection.topics),
            inclusive_of_start=False,
        )

    def _apply(self, cursor: Cursor, batch: Sequence[Notification]) -> None:
        self._projection.take(cursor, [recorded(self._log, each) for each in batch])

    def _execute(self, statement: str, *parts: sql.Composable) -> None:
        self._connection.execute(sql.SQL(statement).format(*parts))  # type: ignore[arg-type]
