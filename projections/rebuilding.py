"""Rebuilding of read models in new tables, which then replace the old ones.

During a rebuild, readers use the old tables, and the projector keeps them up to date. The rebuild
fills the new tables in separate schemas, batch by batch, and decodes each event once for all read
models. A short transaction for each read model then replaces its old tables and its position. If a
rebuild is killed, the old tables remain, and the next rebuild starts from the beginning.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import psycopg
from psycopg import sql

from domain.core.errors import WrongState
from domain.core.recorded import Recorded
from infrastructure.postgres.event_batches import event_batches
from infrastructure.postgres.schema_change import LOCK_MILLISECONDS
from infrastructure.postgres.store import Connection, connect_to, scalar
from projections.projection import Cursor, Projection, lock_positions

PAUSE_SECONDS = 0.2
SWAP_SECONDS = 600.0
"""Seconds after which a swap gives up if readers keep locking the old tables."""

LOCK_CLASS = 0xEC1
"""First key of the advisory locks. The second key is the hash of the projection's name."""

COLLECTED_OBJECTS = 250_000
"""New objects after which Python searches for reference cycles. A batch has fewer."""

Progress = Callable[[int, int], object]
"""A function that receives the notification IDs of the last read event and of the log's last."""

T = TypeVar("T")


def rebuild(owner_url: str, projections: Sequence[Projection], progress: Progress) -> int:
    """Rebuild projections from the whole log. Return the number of events that were applied.

    An event counts once if several projections need it. `owner_url` is the database URL of the
    tables' owner. Raise WrongState if another rebuild of one of them is running.
    """
    with (
        connect_to(owner_url) as connection,
        connect_to(owner_url) as reading,
        _alone(connection, projections),
        few_collections(),
    ):
        return _Rebuild(connection, reading, projections, progress).run()


def fold(connection: Connection, batches: Iterable[tuple[Projection, Sequence[Recorded]]]) -> None:
    """Apply a batch to each projection, in one transaction."""
    with connection.pipeline(), connection.transaction(), connection.cursor() as cursor:
        for projection, batch in batches:
            projection.take(cursor, batch)


@contextmanager
def few_collections() -> Generator[None]:
    """Search for reference cycles less often.

    Events have no cycles, but each batch of them would start searches that visit all objects of the
    process. They take a third of the time.
    """
    before = gc.get_threshold()
    gc.set_threshold(COLLECTED_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def in_background(work: Callable[[T], object]) -> Generator[Callable[[T], None]]:
    """Yield a function that begins a call of `work` in a thread, after the one before has ended.

    It raises the error of the one before. At the end of the block, the last call has ended. If it
    fails, its error replaces that of the block.
    """
    running: list[Future[object]] = []

    def wait() -> None:
        if running:
            running.pop().result()

    def begin(value: T) -> None:
        wait()
        running.append(thread.submit(work, value))

    with ThreadPoolExecutor(1) as thread:
        try:
            yield begin
        except Exception:
            wait()
            raise
        wait()


@contextmanager
def _alone(connection: Connection, projections: Sequence[Projection]) -> Generator[None]:
    for each in projections:
        lock = [LOCK_CLASS, each.name]
        if not scalar(connection, "SELECT pg_try_advisory_lock(%s, hashtext(%s))", lock):
            raise WrongState(f"{each.name} is already being rebuilt. Wait for the other rebuild.")
    yield
    connection.execute("SELECT pg_advisory_unlock_all()")


class _Rebuild:
    def __init__(
        self,
        connection: Connection,
        reading: Connection,
        projections: Sequence[Projection],
        progress: Progress,
    ) -> None:
        self._connection, self._reading = connection, reading
        self._projections = projections
        self._progress = progress
        self._events = 0
        self._head = self._last_event()

    def run(self) -> int:
        for each in self._projections:
            self._create(each)
        path = sql.SQL(", ").join(map(_schema, self._projections))
        self._execute("SET search_path TO {}, public", path)
        # A rebuild that crashes starts over, so only the swaps must wait for the disk.
        self._execute("SET synchronous_commit TO off")
        position = self._fold(self._projections, 0)
        for each in self._projections:
            for table in each.tables:
                self._execute("ANALYZE {}.{}", _schema(each), sql.Identifier(table))
        for each in self._projections:
            self._finish(each, position)
        return self._events

    def _create(self, projection: Projection) -> None:
        """Create the new tables. Drop those of an earlier attempt."""
        schema = _schema(projection)
        with self._connection.transaction():
            self._execute("DROP SCHEMA IF EXISTS {} CASCADE", schema)
            self._execute("CREATE SCHEMA {}", schema)
            self._execute("SET LOCAL search_path TO {}", schema)
            self._connection.execute(projection.ddl.encode())

    def _fold(self, projections: Sequence[Projection], position: int) -> int:
        """Apply the events after a position, with one transaction for each batch.

        A thread applies a batch while this one reads the next. Return the new position.
        """

        def apply(batch: Sequence[Recorded]) -> None:
            fold(self._connection, [(each, batch) for each in projections])

        with in_background(apply) as begin:
            for batch in self._batches(projections, position):
                begin(batch)
                position = batch[-1].id
                self._events += len(batch)
                self._progress(min(position, self._head), self._head)
        return position

    def _batches(
        self, projections: Sequence[Projection], after: int, until: int | None = None
    ) -> Iterable[list[Recorded]]:
        """Return the next events that the projections need."""
        topics = frozenset[str]().union(*(each.topics for each in projections))
        return event_batches(self._reading, topics, after, until)

    def _finish(self, projection: Projection, position: int) -> None:
        """Apply the events since the common fold, and replace the old tables."""
        deadline = time.monotonic() + SWAP_SECONDS
        while True:
            position = self._fold([projection], position)
            if self._swapped(projection, position):
                return
            if time.monotonic() > deadline:
                raise WrongState(
                    f"Readers locked {projection.name} for {SWAP_SECONDS:.0f} s, so its old "
                    "tables stay. Try again when no audit or backup runs."
                )
            time.sleep(PAUSE_SECONDS)

    def _swapped(self, projection: Projection, position: int) -> bool:
        """Replace the old tables. Return False if a reader locks one of them."""
        try:
            with self._connection.transaction(), self._connection.cursor() as cursor:
                self._execute(f"SET LOCAL lock_timeout TO '{LOCK_MILLISECONDS}ms'")
                self._execute("SET LOCAL synchronous_commit TO on")
                lock_positions(cursor, [projection])
                events, head = self._fold_rest(cursor, projection, position)
                for table in projection.tables:
                    self._replace(projection, table)
                self._record(projection, head)
                self._execute("DROP SCHEMA {}", _schema(projection))
        except psycopg.errors.LockNotAvailable:
            return False
        self._events += events
        return True

    def _fold_rest(self, cursor: Cursor, projection: Projection, position: int) -> tuple[int, int]:
        """Apply the events up to the current end of the log. The projector applies later events.

        Return their number and the new position.
        """
        events, head = 0, self._last_event()
        for batch in self._batches([projection], position, head):
            projection.take(cursor, batch)
            events += len(batch)
        return events, head

    def _last_event(self) -> int:
        query = "SELECT coalesce(max(notification_id), 0) FROM ecolink_events"
        return scalar(self._reading, query)

    def _replace(self, projection: Projection, table: str) -> None:
        old, new = sql.Identifier("public", table), sql.Identifier(_name(projection), table)
        if scalar(self._connection, "SELECT to_regclass(%s)", [f"public.{table}"]) is not None:
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

    def _record(self, projection: Projection, position: int) -> None:
        name = projection.name
        self._connection.execute(
            "UPDATE projection_positions SET position = %s WHERE name = %s", [position, name]
        )
        self._connection.execute(
            "INSERT INTO projection_shapes VALUES (%s, %s) "
            "ON CONFLICT (name) DO UPDATE SET ddl_sha256 = excluded.ddl_sha256",
            [name, projection.shape],
        )

    def _execute(self, statement: str, *parts: sql.Composable) -> None:
        self._connection.execute(sql.SQL(statement).format(*parts))  # type: ignore[arg-type]


def _name(projection: Projection) -> str:
    return f"rebuild_{projection.name}"


def _schema(projection: Projection) -> sql.Identifier:
    return sql.Identifier(_name(projection))
