"""The connections of the event store, with all parameters of the database's URL.

The library reads only the host, port, user, password and database, and each of them from a variable
of this process first: `ECOLINK_POSTGRES_PORT`, the port of the embedded server, would replace that
of the URL. `PERSISTENCE_MODULE` therefore names this module's factory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from eventsourcing.persistence import OperationalError
from eventsourcing.postgres import ConnectionPool, PostgresDatastore
from eventsourcing.postgres import PostgresFactory as LibraryFactory
from eventsourcing.utils import Environment, EnvType
from psycopg.rows import DictRow, dict_row

from infrastructure.database_url import RECONNECTING, writing
from infrastructure.primary import PrimaryConnection

PARAMETERS = "POSTGRES_PARAMETERS"
"""Name of the variable with all parameters of a connection, as JSON."""


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


class EventStoreFactory(LibraryFactory):
    """A factory of recorders that share an `EventDatastore`."""

    def __init__(self, env: Environment | EnvType | None) -> None:
        super().__init__(env)
        # The library has no setting for the class of the datastore.
        self.datastore.__class__ = EventDatastore
        parameters: dict[str, Any] = json.loads(self.env[PARAMETERS])
        library = self.datastore.pool  # not open yet
        self.datastore.pool = ConnectionPool[psycopg.Connection[DictRow]](
            connection_class=PrimaryConnection,
            kwargs=parameters | {"row_factory": dict_row},
            min_size=library.min_size,
            max_size=library.max_size,
            open=False,
            configure=self.datastore.after_connect_func(),
            check=ConnectionPool.check_connection,  # pyright: ignore[reportArgumentType]
            timeout=library.timeout,
            max_waiting=library.max_waiting,
            max_lifetime=library.max_lifetime,
            **RECONNECTING,
        )
