"""Connections of accounts to trackers, and their secrets.

They are rows, not events, because a URL may contain a secret, and because deletion must remove it.
The secrets have a table of their own, which the gateway cannot read.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from uuid import UUID

from psycopg.rows import class_row

from domain.training.integrations import Tracker
from infrastructure.extensions import Table
from infrastructure.postgres.store import Connection

CONNECTIONS = Table(
    name="tracker_connections",
    owner="account_id",
    time="created_at",
    ddl="""
CREATE TABLE IF NOT EXISTS tracker_connections (
    account_id uuid NOT NULL,
    tracker text NOT NULL,
    url text NOT NULL,
    username text,
    has_secret boolean NOT NULL,
    created_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    test_requested_at timestamptz,
    tested_at timestamptz,
    test_error text,
    PRIMARY KEY (account_id, tracker)
);
CREATE INDEX IF NOT EXISTS tracker_connections_test ON tracker_connections (test_requested_at)
    WHERE test_requested_at IS NOT NULL
""",
)

SECRETS = Table(
    name="tracker_secrets",
    cascades=True,
    secret=True,
    ddl="""
CREATE TABLE IF NOT EXISTS tracker_secrets (
    account_id uuid NOT NULL,
    tracker text NOT NULL,
    secret text NOT NULL,
    PRIMARY KEY (account_id, tracker),
    FOREIGN KEY (account_id, tracker) REFERENCES tracker_connections ON DELETE CASCADE
)
""",
)

LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"


@dataclass(frozen=True)
class TrackerConnection:
    """The server of one tracker of an account.

    `username` is None for a token or an API key. The last test failed if `test_error` is set, and
    none is running unless `test_requested_at` is set.
    """

    account_id: UUID
    tracker: Tracker
    url: str
    username: str | None
    has_secret: bool
    created_at: datetime
    changed_at: datetime
    test_requested_at: datetime | None
    tested_at: datetime | None
    test_error: str | None

    def __post_init__(self) -> None:  # PostgreSQL returns texts
        object.__setattr__(self, "tracker", Tracker(self.tracker))


@dataclass(frozen=True)
class Server:
    """A tracker's server with everything that a request needs."""

    url: str
    username: str | None = None
    secret: str | None = None
    of_operator: bool = False
    """True for the server in the settings, which may have any address."""

    @property
    def identity(self) -> str:
        """Hash of the URL and its owner. A run's ID is valid only at the server that chose it."""
        owner = "operator" if self.of_operator else "account"
        return sha256(f"{owner} {self.url}".encode()).hexdigest()


def set_connection(
    connection: Connection, account_id: UUID, tracker: Tracker, server: Server, now: datetime
) -> None:
    """Store or replace the connection of an account. Waiting runs are sent immediately.

    The gateway may not change a URL, so this function deletes the earlier one with its secret.
    """
    key = [account_id, tracker]
    with connection.transaction():
        connection.execute(LOCK, [f"tracker:{account_id}:{tracker}"])
        earlier = connection.execute(
            "DELETE FROM tracker_connections WHERE account_id = %s AND tracker = %s "
            "RETURNING created_at",
            key,
        ).fetchone()
        created_at = now if earlier is None else earlier["created_at"]
        connection.execute(
            "INSERT INTO tracker_connections (account_id, tracker, url, username, has_secret, "
            "created_at, changed_at) VALUES (%s, %s, %s, %s, %s, %s, %s)",
            [*key, server.url, server.username, server.secret is not None, created_at, now],
        )
        if server.secret is not None:
            connection.execute(
                "INSERT INTO tracker_secrets VALUES (%s, %s, %s)", [*key, server.secret]
            )


def connections_of(connection: Connection, account_id: UUID) -> dict[Tracker, TrackerConnection]:
    """Return the connections of an account by tracker."""
    with connection.cursor(row_factory=class_row(TrackerConnection)) as cursor:
        found = cursor.execute(
            "SELECT * FROM tracker_connections WHERE account_id = %s ORDER BY tracker", [account_id]
        ).fetchall()
    return {each.tracker: each for each in found}


def delete_connection(connection: Connection, account_id: UUID, tracker: Tracker) -> bool:
    """Delete a connection with its secret. Return False if there is none."""
    deleted = connection.execute(
        "DELETE FROM tracker_connections WHERE account_id = %s AND tracker = %s",
        [account_id, tracker],
    )
    return deleted.rowcount > 0


def request_test(connection: Connection, account_id: UUID, tracker: Tracker, now: datetime) -> bool:
    """Ask the trackers process to test a connection. Return False if there is none."""
    asked = connection.execute(
        "UPDATE tracker_connections SET test_requested_at = %s, tested_at = NULL, "
        "test_error = NULL WHERE account_id = %s AND tracker = %s",
        [now, account_id, tracker],
    )
    return asked.rowcount > 0


def requested_tests(connection: Connection, limit: int) -> list[TrackerConnection]:
    """Return the connections whose test is requested, the earliest requests first."""
    with connection.cursor(row_factory=class_row(TrackerConnection)) as cursor:
        return cursor.execute(
            "SELECT * FROM tracker_connections WHERE test_requested_at IS NOT NULL "
            "ORDER BY test_requested_at LIMIT %s",
            [limit],
        ).fetchall()


def end_test(
    connection: Connection, tested: TrackerConnection, error: str | None, now: datetime
) -> None:
    """Store the result of a test, unless the owner has changed the connection meanwhile."""
    connection.execute(
        "UPDATE tracker_connections SET test_requested_at = NULL, tested_at = %s, test_error = %s "
        "WHERE account_id = %s AND tracker = %s AND test_requested_at = %s AND changed_at = %s",
        [
            *(now, error, tested.account_id, tested.tracker),
            *(tested.test_requested_at, tested.changed_at),
        ],
    )


def server_of(connection: Connection, account_id: UUID, tracker: Tracker) -> Server | None:
    """Return an account's own server with its secret, or None."""
    with connection.cursor(row_factory=class_row(Server)) as cursor:
        return cursor.execute(
            "SELECT url, username, secret FROM tracker_connections "
            "LEFT JOIN tracker_secrets USING (account_id, tracker) "
            "WHERE account_id = %s AND tracker = %s",
            [account_id, tracker],
        ).fetchone()
