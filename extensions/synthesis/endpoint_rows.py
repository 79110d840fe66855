"""External endpoints that generate examples, and their keys.

They are rows, not events, because a URL or a key is a secret, and because deletion must remove it.
The keys have a table of their own, which the gateway cannot read.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from psycopg.rows import class_row

from infrastructure.extensions import Table
from infrastructure.postgres.store import Connection, scalar

ENDPOINTS = Table(
    name="synthesis_endpoints",
    owner="account_id",
    ddl="""
CREATE TABLE IF NOT EXISTS synthesis_endpoints (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    name text NOT NULL,
    url text NOT NULL,
    has_key boolean NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS synthesis_endpoints_of_account ON synthesis_endpoints (account_id)
""",
)

KEYS = Table(
    name="synthesis_endpoint_keys",
    cascades=True,
    secret=True,
    ddl="""
CREATE TABLE IF NOT EXISTS synthesis_endpoint_keys (
    endpoint_id uuid PRIMARY KEY REFERENCES synthesis_endpoints ON DELETE CASCADE,
    key text NOT NULL
)
""",
)


SELECT_ENDPOINTS = (
    "SELECT *, has_key AND NOT EXISTS (SELECT FROM synthesis_endpoint_keys "
    "WHERE endpoint_id = id) AS key_lost FROM synthesis_endpoints WHERE account_id = %s "
)


@dataclass(frozen=True)
class SynthesisEndpoint:
    """An OpenAI-compatible endpoint of another provider. `url` is its base, such as `.../v1`."""

    id: UUID
    account_id: UUID
    name: str
    url: str
    has_key: bool
    created_at: datetime
    key_lost: bool = False
    """True if the key is missing, as after a restore of a backup without secrets."""


@dataclass(frozen=True)
class EndpointAccess:
    """The URL of an endpoint, and its key."""

    url: str
    key: str | None  # empty: it needs none; None: lost, as in a backup without secrets


def add_endpoint(
    connection: Connection, account_id: UUID, name: str, url: str, key: str, now: datetime
) -> SynthesisEndpoint:
    """Store an endpoint of an account, with its key if it has one."""
    endpoint = SynthesisEndpoint(uuid4(), account_id, name, url, bool(key), now)
    with connection.transaction():
        connection.execute(
            "INSERT INTO synthesis_endpoints VALUES (%s, %s, %s, %s, %s, %s)",
            [endpoint.id, account_id, name, url, endpoint.has_key, now],
        )
        _add_key(connection, endpoint.id, key)
    return endpoint


def replace_key(connection: Connection, account_id: UUID, endpoint_id: UUID, key: str) -> bool:
    """Replace the key of an endpoint. Return False if the account has no such endpoint."""
    with connection.transaction():
        changed = connection.execute(
            "UPDATE synthesis_endpoints SET has_key = %s WHERE account_id = %s AND id = %s",
            [bool(key), account_id, endpoint_id],
        )
        if changed.rowcount:
            connection.execute(
                "DELETE FROM synthesis_endpoint_keys WHERE endpoint_id = %s", [endpoint_id]
            )
            _add_key(connection, endpoint_id, key)
    return changed.rowcount > 0


def _add_key(connection: Connection, endpoint_id: UUID, key: str) -> None:
    if key:
        connection.execute(
            "INSERT INTO synthesis_endpoint_keys VALUES (%s, %s)", [endpoint_id, key]
        )


def endpoints_of(connection: Connection, account_id: UUID) -> list[SynthesisEndpoint]:
    """Return the endpoints of an account, oldest first."""
    with connection.cursor(row_factory=class_row(SynthesisEndpoint)) as cursor:
        return cursor.execute(
            f"{SELECT_ENDPOINTS} ORDER BY created_at, id", [account_id]
        ).fetchall()


def endpoint_of(
    connection: Connection, account_id: UUID, endpoint_id: UUID
) -> SynthesisEndpoint | None:
    """Return an endpoint of an account, or None."""
    with connection.cursor(row_factory=class_row(SynthesisEndpoint)) as cursor:
        return cursor.execute(
            f"{SELECT_ENDPOINTS} AND id = %s", [account_id, endpoint_id]
        ).fetchone()


def endpoint_count(connection: Connection, account_id: UUID) -> int:
    """Return the number of endpoints of an account."""
    return scalar(
        connection, "SELECT count(*) FROM synthesis_endpoints WHERE account_id = %s", [account_id]
    )


def delete_endpoint(connection: Connection, account_id: UUID, endpoint_id: UUID) -> bool:
    """Delete an endpoint with its key. Return False if the account has no such endpoint."""
    deleted = connection.execute(
        "DELETE FROM synthesis_endpoints WHERE account_id = %s AND id = %s",
        [account_id, endpoint_id],
    )
    return deleted.rowcount > 0


def access_of(connection: Connection, account_id: UUID, endpoint_id: UUID) -> EndpointAccess | None:
    """Return the URL and the key of an endpoint, or None if it was deleted."""
    with connection.cursor(row_factory=class_row(EndpointAccess)) as cursor:
        return cursor.execute(
            "SELECT url, CASE WHEN has_key THEN key ELSE '' END AS key FROM synthesis_endpoints "
            "LEFT JOIN synthesis_endpoint_keys ON endpoint_id = id "
            "WHERE account_id = %s AND id = %s",
            [account_id, endpoint_id],
        ).fetchone()
