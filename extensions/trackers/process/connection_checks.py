"""The queue of requested tests of connections."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from uuid import UUID

from psycopg_pool import ConnectionPool

from domain.training.integrations import Tracker
from extensions.trackers.connections import TrackerConnection, end_test, requested_tests
from extensions.trackers.process.servers import Servers
from extensions.trackers.process.tracker import TrackerClient, TrackerFailure
from infrastructure.http.dispatcher import UNAVAILABLE, Busy
from infrastructure.postgres.store import Connection
from infrastructure.process.clock import Clock

log = logging.getLogger("trackers")

LISTED = 64


@dataclass(frozen=True)
class DueCheck:
    """A connection whose test is requested."""

    tested: TrackerConnection

    @property
    def id(self) -> tuple[UUID, Tracker]:
        """Key of the connection."""
        return self.tested.account_id, self.tested.tracker

    @property
    def receiver_id(self) -> tuple[UUID, Tracker]:
        """The server."""
        return self.id

    @property
    def account_id(self) -> UUID:
        return self.tested.account_id


class CheckQueue:
    """Requested tests. Each is made once."""

    def __init__(self, pool: ConnectionPool[Connection], clock: Clock, servers: Servers) -> None:
        self._pool, self._clock, self._servers = pool, clock, servers

    def due(self, busy: Busy) -> list[DueCheck]:
        """Return the requested tests, except running ones."""
        with self._pool.connection() as connection:
            found = map(DueCheck, requested_tests(connection, LISTED + len(busy.messages)))
            return [each for each in found if each.id not in busy.messages]

    async def send(self, due: DueCheck) -> str | None:
        """Test a connection. Return its error, or None."""
        try:
            client = await asyncio.to_thread(self._client, due.tested)
            if client is not None:
                await client.check()
        except TrackerFailure as failure:
            return failure.message
        except UNAVAILABLE as error:
            log.warning("cannot read a connection: %s", error)
            return "EcoLink could not test the connection. Try again."
        except Exception as error:
            log.exception("a test of %s failed unexpectedly", due.tested.tracker)
            return f"EcoLink could not test the connection ({type(error).__name__})."
        return None

    def _client(self, tested: TrackerConnection) -> TrackerClient | None:
        with self._pool.connection() as connection:
            return self._servers.client_for_test(connection, tested)

    def record(self, due: DueCheck, result: str | None) -> None:
        """Store the result of a test."""
        with self._pool.connection() as connection:
            end_test(connection, due.tested, result, self._clock.now())
