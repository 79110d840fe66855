"""The primary of several PostgreSQL servers, and connections that leave a former one.

A primary that froze or lost its network may return after its standby was promoted, and accept
writes that the new primary never gets. `target_session_attrs` accepts both. PostgreSQL increases
its timeline at a promotion, so the former primary is the one on the earlier timeline.

While a process has connections to servers of which the URL names several, a thread for each server
asks it for its timeline. If one was promoted, the process closes its connections to the others,
even while it waits for a response of a frozen one, and refuses new connections to them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self
from weakref import WeakKeyDictionary

import psycopg
from psycopg.rows import DictRow, scalar_row

from infrastructure.postgres.database_url import server_names

TIMELINE = """
SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE
    (SELECT system_identifier FROM pg_control_system()) || '/'
    || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END AS timeline
"""
"""Query of a server's timeline as text. NULL: a standby."""

WATCH_SECONDS = 2.0
"""Pause between two queries of a server."""

FIRST_LOOK_SECONDS = 2.0
"""Longest wait for the servers before the first connection."""

log = logging.getLogger("primary")


@dataclass(frozen=True)
class Timeline:
    """The timeline of a database cluster. Each promotion of one of its servers increases it."""

    system: str
    number: int

    @classmethod
    def parsed(cls, text: str) -> Timeline:
        """Return a timeline from its text, such as `7345/00000002`. Raise ValueError."""
        system, _, number = text.partition("/")
        return cls(system, int(number, 16))

    def __str__(self) -> str:
        return f"{self.system}/{self.file_prefix}"

    @property
    def file_prefix(self) -> str:
        """The first eight characters of the names of its WAL files."""
        return f"{self.number:08X}"

    def is_before(self, other: Timeline) -> bool:
        """Return True if a promotion ended this timeline. Other clusters cannot be compared."""
        return self.system == other.system and self.number < other.number


@dataclass(frozen=True)
class Primary:
    """A server that accepts writes."""

    timeline: Timeline
    host: str
    port: str


class Servers:
    """The servers of a URL, as this process knows them, and its connections to them."""

    def __init__(self, servers: Sequence[dict[str, Any]]) -> None:
        self._servers = servers
        self._primary: Primary | None = None
        self._connections = WeakKeyDictionary[psycopg.BaseConnection[Any], Primary]()
        self._new = WeakKeyDictionary[psycopg.BaseConnection[Any], tuple[str, str]]()
        self._lock = threading.Lock()
        self._watched = False

    def primary_first(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters of a connection, with the current primary as the first host."""
        self._watch()
        primary = self._primary
        if primary is None:
            return parameters
        names = [(primary.host, primary.port)]
        names += [each for each in server_names(parameters) if each != names[0]]
        hosts, ports = (",".join(each) for each in zip(*names, strict=True))
        return parameters | {"host": hosts, "port": ports}

    def expect(self, connection: psycopg.BaseConnection[Any]) -> None:
        """Register a connection: it ends if another server is promoted before its response."""
        info = connection.info
        with self._lock:
            self._new[connection] = info.host, str(info.port)

    def accept(self, connection: psycopg.BaseConnection[Any], text: str | None) -> None:
        """Register a connection to a timeline. Close it and raise OperationalError if it is old."""
        with self._lock:
            self._new.pop(connection, None)
        if text is None:
            return  # a standby, which the URL permits
        info = connection.info
        found = Primary(Timeline.parsed(text), info.host, str(info.port))
        current = self._note(found)
        if found.timeline.is_before(current.timeline):
            connection.pgconn.finish()
            raise psycopg.OperationalError(
                f"The PostgreSQL server {found.host}:{found.port} is a former primary: "
                f"{current.host}:{current.port} was promoted. Stop {found.host}:{found.port}, and "
                f"make it a standby of {current.host}:{current.port}."
            )
        with self._lock:
            self._connections[connection] = found

    def _note(self, found: Primary) -> Primary:
        """Remember a primary, if it is newer than the known one. Return the newest."""
        with self._lock:
            current = self._primary
            if current is not None and not current.timeline.is_before(found.timeline):
                return current
            self._primary = found
        if current is not None:
            log.warning(
                "PostgreSQL failed over from %s:%s to %s:%s; closing connections to the former",
                *(current.host, current.port, found.host, found.port),
            )
            self._leave(found)
        return found

    def _leave(self, current: Primary) -> None:
        """End the connections to servers on earlier timelines, also those that wait."""
        with self._lock:
            open_, new = list(self._connections.items()), list(self._new.items())
        for connection, primary in open_:
            if primary.timeline.is_before(current.timeline):
                _shut_down(connection, primary.port)
        for connection, server in new:
            if server != (current.host, current.port):
                _shut_down(connection, server[1])

    def _watch(self) -> None:
        """Start the threads, unless they run. At first, wait until all servers have answered."""
        with self._lock:
            if self._watched:
                return
            self._watched = True
        asked = [threading.Event() for _ in self._servers]
        for server, event in zip(self._servers, asked, strict=True):
            arguments = (server, event)
            threading.Thread(target=self._follow, args=arguments, daemon=True).start()
        until = time.monotonic() + FIRST_LOOK_SECONDS
        for event in asked:
            event.wait(max(0.0, until - time.monotonic()))

    def _follow(self, server: dict[str, Any], asked: threading.Event) -> None:
        """Ask a server for its timeline until the process ends, if possible in one session."""
        while True:
            try:
                with psycopg.connect(autocommit=True, **server) as connection:
                    while True:
                        if (timeline := timeline_of(connection)) is not None:
                            self._note(Primary(timeline, server["host"], server["port"]))
                        asked.set()
                        time.sleep(WATCH_SECONDS)
            except psycopg.Error as error:
                log.debug("cannot ask %s:%s: %s", server["host"], server["port"], error)
            asked.set()
            time.sleep(WATCH_SECONDS)


_KNOWN: dict[frozenset[tuple[str, str]], Servers] = {}
_LOCK = threading.Lock()

OWN = (
    *("autocommit", "row_factory", "cursor_factory", "prepare_threshold", "context"),
    *("application_name", "options"),
)
"""Parameters that the watch must not have: the health page counts sessions by name."""

WATCH_NAME = "ecolink watch"


def servers_of(parameters: dict[str, Any]) -> Servers | None:
    """Return what this process knows about the servers of a connection. None: there is only one."""
    names = server_names(parameters)
    if len(names) < 2:
        return None
    plain = {name: value for name, value in parameters.items() if name not in OWN}
    plain |= {"target_session_attrs": "any", "application_name": WATCH_NAME}
    with _LOCK:
        each = [plain | {"host": host, "port": port} for host, port in names]
        return _KNOWN.setdefault(frozenset(names), Servers(each))


class PrimaryConnection(psycopg.Connection[DictRow]):
    """A connection to the current primary, if the parameters name several servers."""

    @classmethod
    def connect(cls, conninfo: str = "", **parameters: Any) -> Self:  # type: ignore[override]
        """Connect. Raise OperationalError if only a former primary accepts the connection."""
        servers = servers_of(parameters)
        if servers is None:
            return super().connect(conninfo, **parameters)
        connection = super().connect(conninfo, **servers.primary_first(parameters))
        servers.expect(connection)
        servers.accept(connection, _timeline(connection))
        if not connection.autocommit:
            connection.rollback()
        return connection


async def connect_async(parameters: dict[str, Any]) -> psycopg.AsyncConnection:
    """Like `PrimaryConnection.connect`, for a connection with autocommit in an event loop."""
    servers = servers_of(parameters)
    if servers is None:
        return await psycopg.AsyncConnection.connect(autocommit=True, **parameters)
    ordered = await asyncio.to_thread(servers.primary_first, parameters)
    connection = await psycopg.AsyncConnection.connect(autocommit=True, **ordered)
    servers.expect(connection)
    async with psycopg.AsyncCursor(connection, row_factory=scalar_row) as cursor:
        text = await (await cursor.execute(TIMELINE)).fetchone()
    servers.accept(connection, text)
    return connection


def timeline_of(connection: psycopg.Connection[Any]) -> Timeline | None:
    """Return the timeline of the server of a connection, or None if it is a standby."""
    text = _timeline(connection)
    return None if text is None else Timeline.parsed(text)


def primary_timeline(connection: psycopg.Connection[Any]) -> Timeline:
    """Like `timeline_of`, but raise OperationalError if the server is a standby."""
    timeline = timeline_of(connection)
    if timeline is None:
        raise psycopg.OperationalError("The PostgreSQL server does not accept writes: a standby.")
    return timeline


def _timeline(connection: psycopg.Connection[Any]) -> str | None:
    with psycopg.Cursor(connection, row_factory=scalar_row) as cursor:
        return cursor.execute(TIMELINE).fetchone()


def _shut_down(connection: psycopg.BaseConnection[Any], port: str) -> None:
    """End the TCP connection of a waiting thread, by a duplicate: numbers are reused."""
    with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as end:
        if str(end.getpeername()[1]) == port:
            end.shutdown(socket.SHUT_RDWR)
