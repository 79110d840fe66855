"""Storage of telemetry and log lines as rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import psycopg
from psycopg_pool import ConnectionPool
from pydantic import ValidationError

from infrastructure.bus.exchange import read
from infrastructure.postgres.store import Connection
from infrastructure.training.reports import Message

M = TypeVar("M", bound=Message)


def store(
    kind: type[M],
    add: Callable[[Connection, M], None],
    pool: ConnectionPool[Connection],
    messages: Sequence[object],
) -> None:
    """Store a batch of messages in one transaction."""
    _store_rows(pool, _valid(kind, messages), add)


def _valid(kind: type[M], messages: Sequence[object]) -> list[M]:
    """Return the valid messages. Log the others."""
    found: list[M] = []
    for message in messages:
        try:
            found.append(read(kind, message))
        except ValidationError as error:
            logging.getLogger("measurements").warning("dropping an invalid message: %s", error)
    return found


def _store_rows(
    pool: ConnectionPool[Connection], rows: Sequence[M], add: Callable[[Connection, M], None]
) -> None:
    """Add rows. If the database rejects a row, drop only that row."""
    with pool.connection() as connection:
        try:
            with connection.transaction():
                for row in rows:
                    add(connection, row)
        except psycopg.DataError as error:
            if len(rows) == 1:
                logging.getLogger("measurements").warning("dropping a row: %s", error)
                return
        else:
            return
    for row in rows:
        _store_rows(pool, [row], add)
