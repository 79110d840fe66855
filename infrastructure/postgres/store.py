"""The event store on PostgreSQL, and connections to its database."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, LiteralString, Self

import psycopg
from eventsourcing.utils import Environment, get_topic, strtobool
from psycopg.abc import Params, Query
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, dict_row, scalar_row
from psycopg_pool import ConnectionPool, PoolTimeout

from domain.core.event_log import SNAPSHOT_SECRET, TAKES_SNAPSHOTS, EventLog
from infrastructure.postgres.database_url import RECONNECTING, connection_parameters, writing
from infrastructure.postgres.event_datastore import EventStoreFactory
from infrastructure.postgres.event_recorder import EventRecorder
from infrastructure.postgres.leadership import Leadership
from infrastructure.postgres.presence import follow_format
from infrastructure.postgres.primary import PrimaryConnection, connect_async, primary_timeline
from infrastructure.process.role import current_role
from infrastructure.settings import Settings

Connection = psycopg.Connection[DictRow]

EXCLUSIVE: LiteralString = "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))"
"""Statement that takes a lock of a name until the end of a transaction, if it is free."""

EVENTS_TABLE = "ecolink_events"
CHANNEL = EVENTS_TABLE
"""Channel that the event store notifies on every commit."""

UNCHECKED_SECONDS = 1.5
"""Time after its last use in which a pooled connection counts as alive without a check."""


POOL_SECONDS = 10
"""Maximum wait for a connection of a pool."""

EVENT_CONNECTIONS = 12
"""Connections of a pool for events, beyond those for other rows.

A thread that uses a connection for rows may need another one for events, but not the reverse. So
the threads with rows never take the last connections, for which all of them would wait.
"""

IDLE_SECONDS = 10.0
"""Time after which a pool closes one connection that it no longer needs."""

TURN_SECONDS = 0.05
"""Time for which a thread waits for another one to return its connection, before the pool grows."""

LEAST_CONNECTIONS = 300
"""Connections that PostgreSQL must accept for one of each process and some standbys.

A process has a pool, which has one connection while it is idle and grows to about 20 under load,
and a session with its lead. The relay and the gateway also have one that hears of new events. A
standby has only its session.
"""


class ReplanningCursor(psycopg.Cursor[Any]):
    """A cursor that survives a migration which adds columns to a table.

    psycopg prepares repeated queries. PostgreSQL refuses a prepared query if its result has other
    columns than before. After that, the connection prepares no more queries, and the cursor repeats
    the query unless it is part of a transaction, which has failed.
    """

    def execute(
        self,
        query: Query,
        params: Params | None = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> Self:
        """Execute a query or command."""
        try:
            return super().execute(query, params, prepare=prepare, binary=binary)  # type: ignore[arg-type]
        except psycopg.errors.FeatureNotSupported:
            connection = self.connection
            known = connection.prepare_threshold is None
            connection.prepare_threshold = None
            if known or connection.info.transaction_status is not TransactionStatus.IDLE:
                raise
            return super().execute(query, params, prepare=False, binary=binary)  # type: ignore[arg-type]


LIBRARY = {
    "PROCESS_RECORDER_TOPIC": get_topic(EventRecorder),
    **{f"POSTGRES_{name}": "unused" for name in ("DBNAME", "HOST", "USER", "PASSWORD")},
    "POSTGRES_LOCK_TIMEOUT": "30",
    "POSTGRES_ENABLE_DB_FUNCTIONS": "n",
    "CREATE_TABLE": "n",
}
"""Variables of the event store's library, whose own pool is never opened."""


class PooledConnection(PrimaryConnection):
    """A connection of a pool."""

    returned_at = -math.inf  # monotonic time of its last use


FACTORIES: dict[str, Any] = {"row_factory": dict_row, "cursor_factory": ReplanningCursor}
"""Parameters of connections that return rows as dicts."""


class ProcessPool(ConnectionPool[Connection]):
    """The connections of a process, for events and for other rows.

    An idle process has many short queries that happen to overlap. They take turns, so that one
    connection is enough. A thread that waits for longer than its turn makes the pool grow, and the
    number of threads at once falls again with time.

    The pool notes when its connections were used. With a `reset` function, the library returns
    connections in another thread, and opens more of them in the meantime.
    """

    def __init__(self, rows: int, **options: Any) -> None:
        """Open a pool with at most this number of connections for rows at once."""
        self._rows = threading.BoundedSemaphore(rows)
        self._turn = threading.Condition()
        self._lent, self._at_once, self._lowered = 0, 1, time.monotonic()
        super().__init__(min_size=1, max_size=rows + EVENT_CONNECTIONS, **options)

    def putconn(self, conn: Connection) -> None:
        """Return a connection to the pool."""
        assert isinstance(conn, PooledConnection)
        conn.returned_at = time.monotonic()
        super().putconn(conn)

    @contextmanager
    def connection(self, timeout: float | None = None) -> Generator[Connection]:
        """Lend a connection for rows. Raise psycopg.OperationalError if its server is a standby."""
        seconds = self.timeout if timeout is None else timeout
        if not self._rows.acquire(timeout=seconds):
            raise PoolTimeout(f"All connections were in use for {seconds:g} s.")
        try:
            with self.for_events(timeout) as lent, writing(lent):
                yield lent
        finally:
            self._rows.release()

    @contextmanager
    def for_events(self, timeout: float | None = None) -> Generator[Connection]:
        """Lend a connection, even if all connections for rows are in use."""
        with self._turn:
            if time.monotonic() - self._lowered > IDLE_SECONDS:
                self._at_once, self._lowered = max(1, self._at_once - 1), time.monotonic()
            if not self._turn.wait_for(lambda: self._lent < self._at_once, TURN_SECONDS):
                self._at_once = self._lent + 1
            self._lent += 1
        try:
            with super().connection(timeout) as lent:
                yield lent
        finally:
            with self._turn:
                self._lent -= 1
                self._turn.notify()


def open_log(
    settings: Settings,
    *,
    pool: ConnectionPool[Connection] | None = None,
    cached: int = 0,
    takes_snapshots: bool = False,
    leadership: Leadership | None = None,
) -> EventLog:
    """Open the event log of a process. Closing the log closes its pool.

    `cached` is the number of aggregates that stay in memory, so that a load reads only new events.
    The log uses snapshots if the settings contain their secret. Only billing and the scheduler take
    snapshots. With `leadership`, saves fail as soon as another process leads.

    The log stores events in the format in use. Raise NewerFormat if this version of EcoLink cannot
    read it, and RuntimeError if the server's settings would lose or reorder events.
    """
    assert settings.database_url is not None
    if strtobool(os.environ.get("POSTGRES_ENABLE_DB_FUNCTIONS", "no")):
        # These functions skip the table lock, so readers at the end of the log miss committed
        # events.
        raise RuntimeError("POSTGRES_ENABLE_DB_FUNCTIONS is set, which loses events. Unset it.")
    environment: dict[str, str] = {}
    if settings.snapshot_secret:
        environment["IS_SNAPSHOTTING_ENABLED"] = "y"
        environment[SNAPSHOT_SECRET] = settings.snapshot_secret
        environment[TAKES_SNAPSHOTS] = "y" if takes_snapshots else "n"
    if cached:
        environment["AGGREGATE_CACHE_MAXSIZE"] = str(cached)
    with connect(settings) as connection:
        _require_durable(connection)
        timeline = primary_timeline(connection)
        log = _StoredLog(pool or open_pool(settings), environment)
        try:
            follow_format(log, connection)
        except BaseException:
            log.close()
            raise
    assert isinstance(log.recorder, EventRecorder)
    log.recorder.leadership = leadership
    log.recorder.timeline, log.recorder.on_failover = timeline, log.forget_cached
    return log


def create_event_tables(owner_url: str) -> None:
    """Create the tables of the event store as their owner."""
    # Needed to create the table of snapshots. No snapshot is signed with it.
    environment = {"IS_SNAPSHOTTING_ENABLED": "y", SNAPSHOT_SECRET: "unused", "CREATE_TABLE": "y"}
    with _StoredLog(_open_pool(owner_url, 1), environment):
        pass


def open_pool(settings: Settings, *, max_size: int = 8) -> ConnectionPool[Connection]:
    """Open a pool of checked connections, with at most `max_size` at once for rows.

    A page uses a dozen connections one after another, so a check of each would nearly double its
    round trips.
    """
    assert settings.database_url is not None
    pool = _open_pool(settings.database_url, max_size)
    if (role := current_role()) is not None:
        role.closing.callback(pool.close)
    return pool


def _open_pool(url: str, max_size: int) -> ProcessPool:
    return ProcessPool(
        max_size,
        connection_class=PooledConnection,
        kwargs=connection_parameters(url) | {"autocommit": True} | FACTORIES,
        timeout=POOL_SECONDS,
        max_idle=IDLE_SECONDS,
        open=True,
        check=_check,
        **RECONNECTING,
    )


class _StoredLog(EventLog):
    """The event log in PostgreSQL."""

    name = EventLog.name  # else the library names the tables after this class

    def __init__(self, pool: ConnectionPool[Connection], env: Mapping[str, str]) -> None:
        assert isinstance(pool, ProcessPool)
        self._pool = pool
        super().__init__({**LIBRARY, **env})

    def construct_factory(self, env: Environment) -> Any:
        """Return a factory of recorders that use the pool."""
        return EventStoreFactory(env, self._pool)


@contextmanager
def connect(settings: Settings, *, autocommit: bool = True) -> Generator[Connection]:
    """Open a connection that returns rows as dicts. Close it at the end of the block.

    Raise psycopg.OperationalError if the server is a standby.
    """
    assert settings.database_url is not None
    with connect_to(settings.database_url, autocommit=autocommit) as connection:
        yield connection


@contextmanager
def connect_to(url: str, *, autocommit: bool = True) -> Generator[Connection]:
    """Like `connect`, to the database of a URL."""
    parameters = connection_parameters(url)
    with (
        PrimaryConnection.connect(autocommit=autocommit, **parameters, **FACTORIES) as connection,
        writing(connection),
    ):
        yield connection


async def connect_to_listen(settings: Settings) -> psycopg.AsyncConnection:
    """Open a connection that listens for commits of the event store."""
    assert settings.database_url is not None
    connection = await connect_async(connection_parameters(settings.database_url))
    await connection.execute(f"LISTEN {CHANNEL}")
    return connection


def database_time(connection: Connection) -> datetime:
    """Return the database's time, which is the same for all processes."""
    return scalar(connection, "SELECT clock_timestamp()")


def scalar(
    connection: Connection,
    query: LiteralString,
    values: Sequence[object] | Mapping[str, object] = (),
) -> Any:
    """Return the first value of a query's first row, or None if there is no row."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(query, values).fetchone()


def _check(connection: Connection) -> None:
    assert isinstance(connection, PooledConnection)
    if time.monotonic() - connection.returned_at > UNCHECKED_SECONDS:
        connection.execute("")


def _require_durable(connection: Connection) -> None:
    if scalar(connection, "SHOW synchronous_commit") == "off":
        raise RuntimeError(
            "synchronous_commit is off, so a crash would lose acknowledged events. Turn it on."
        )
