"""The connections of the event store, which are those of the process.

The library's own pool ignores most parameters of the database's URL, and environment variables
override the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from eventsourcing.persistence import OperationalError
from eventsourcing.postgres import PostgresDatastore, PostgresFactory
from eventsourcing.utils import Environment
from psycopg.rows import DictRow

from infrastructure.postgres.database_url import writing


class EventConnections:
    """The connections for events of a pool that is open, as the library uses a pool."""

    def __init__(self, pool: Any) -> None:
        self.connection, self.close = pool.for_events, pool.close

    def open(self, *_: object) -> None:
        """Do nothing."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self.close()


class EventDatastore(PostgresDatastore):
    """A datastore whose connections leave a server that becomes a standby."""

    @contextmanager
    def get_connection(self) -> Iterator[psycopg.Connection[DictRow]]:
        """Yield a connection of the pool. Raise OperationalError if its server is a standby."""
        with super().get_connection() as connection:
            try:
                with writing(connection):
                    yield connection
            except psycopg.OperationalError as error:
                raise OperationalError(str(error)) from error


class EventStoreFactory(PostgresFactory):
    """A factory of recorders that use a pool of the process."""

    def __init__(self, env: Environment, pool: Any) -> None:
        super().__init__(env)
        # The library has no settings for these, and its own pool is not open yet.
        datastore: Any = self.datastore
        datastore.__class__ = EventDatastore
        datastore.pool = EventConnections(pool)
