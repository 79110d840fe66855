"""Changes of the database schema while services run.

A change of a table waits for all transactions that use the table, and all later ones wait for the
change. One long reader, such as an audit, would therefore block every save of events.
`change_schema` waits only for a moment, lets the others pass, and tries again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.rows import tuple_row

LOCK_MILLISECONDS = 500
"""Longest wait for a lock, below the deadlock timeout: services must not give up first.

PostgreSQL detects some deadlocks at once, before anyone waits.
"""

PAUSE_SECONDS = 1.0
"""Seconds between two attempts, in which others use the table."""

PATIENCE_SECONDS = 600.0
"""Seconds after which a change gives up."""

BLOCKERS = """
SELECT DISTINCT usename, application_name, pid FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
AND xact_start < clock_timestamp() - interval '1 second'
ORDER BY pid
"""


class SchemaLocked(Exception):
    """Other transactions locked the tables of a change for too long."""


def change_schema(connection: psycopg.Connection[Any], change: Callable[[], object]) -> None:
    """Run a change in a transaction of `connection`, until it gets all its locks.

    The change must be repeatable, because an attempt may fail and leave nothing. Raise SchemaLocked
    after PATIENCE_SECONDS.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with connection.transaction():
                connection.execute(f"SET LOCAL lock_timeout TO '{LOCK_MILLISECONDS}ms'".encode())
                change()
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            blockers = _blockers(connection)
            if time.monotonic() > deadline:
                raise SchemaLocked(
                    f"Other transactions used tables for {PATIENCE_SECONDS:.0f} s that the "
                    f"migration changes: {blockers}. Try again when they have ended."
                ) from error
            logging.getLogger("migrate").info("waiting for tables that %s uses", blockers)
            time.sleep(PAUSE_SECONDS)
        else:
            return


def _blockers(connection: psycopg.Connection[Any]) -> str:
    with connection.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(BLOCKERS).fetchall()
    named = [f"{name or user} (PostgreSQL process {pid})" for user, name, pid in rows]
    return ", ".join(named) or "another transaction"
