"""A database session outside the pools, for the threads that must not wait for one of them."""

from __future__ import annotations

from contextlib import suppress
from contextvars import ContextVar
from threading import Lock
from typing import ClassVar

import psycopg
from psycopg.rows import dict_row

from infrastructure.postgres.database_url import connection_parameters
from infrastructure.postgres.primary import PrimaryConnection
from infrastructure.settings import Settings


class OwnSession:
    """A session with autocommit that is opened when it is needed, and again after `drop`.

    It ends when another server is promoted, even if it waits for a response of the former primary.
    Drop it after each psycopg.Error.
    """

    of_process: ClassVar[ContextVar[OwnSession | None]] = ContextVar("of_process", default=None)
    """Session in which this process, or role, records that it runs. Its lead uses it, too."""

    locked: bool
    """True after the caller has taken its advisory lock. A new session has no lock."""
    leads = False
    """True if a lead uses the session. Other users then do not drop it, to keep the lock."""

    def __init__(self, settings: Settings, name: str, **parameters: str) -> None:
        """Name the session. `parameters` are parameters of the server, such as timeouts."""
        assert settings.database_url is not None
        self._parameters = connection_parameters(settings.database_url)
        self._parameters["application_name"] = name
        options = [f"-c {key}={value}" for key, value in parameters.items()]
        self._parameters["options"] = " ".join(options)
        self._connection: PrimaryConnection | None = None
        self._opening = Lock()
        self.locked = False

    def opened(self) -> PrimaryConnection:
        """Return the connection, which returns rows as dicts. Raise psycopg.Error."""
        with self._opening:
            if self._connection is None:
                self._connection = PrimaryConnection.connect(
                    autocommit=True, row_factory=dict_row, **self._parameters
                )
            return self._connection

    def drop(self) -> None:
        """Close the connection, which releases its lock."""
        connection, self._connection, self.locked = self._connection, None, False
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()
