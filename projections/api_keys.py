"""API keys of each account, with the last characters of their secrets."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from domain.access.api_key import ApiKey
from domain.core.actor import acting_key
from domain.core.aggregate import Event
from infrastructure.postgres.store import Connection, scalar
from projections.projection import Cursor, Projection, Row, one_by_one, select, update

DDL = """
CREATE TABLE IF NOT EXISTS api_keys (
    key_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    role text NOT NULL,
    scopes text[] NOT NULL,
    expires_at timestamptz,
    hint text NOT NULL,
    issued_at timestamptz NOT NULL,
    created_by_operator boolean NOT NULL,
    revoked_at timestamptz
)
"""


def apply(cursor: Cursor, event: Event) -> None:
    """Apply one event to the table."""
    match event:
        case ApiKey.ApiKeyIssued():
            cursor.execute(
                "INSERT INTO api_keys VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
                [
                    *(event.originator_id, event.account_id, event.role, list(event.scopes)),
                    *(event.expires_at, event.hint, event.timestamp, _by_operator(cursor, event)),
                ],
            )
        case ApiKey.ApiKeyRevoked():
            update(cursor, "api_keys", {"key_id": event.originator_id}, revoked_at=event.timestamp)
        case _:
            pass


def _by_operator(cursor: Cursor, event: ApiKey.ApiKeyIssued) -> bool:
    """Return True unless another key of the account created this key."""
    try:
        creator = acting_key(event.actor)
    except ValueError:  # a forged event, which the audit reports
        return True
    query = "SELECT FROM api_keys WHERE key_id = %s AND account_id = %s"
    return not select(cursor, query, creator, event.account_id)


API_KEYS = Projection(
    "api_keys",
    ("api_keys",),
    DDL,
    (
        ApiKey.ApiKeyIssued,
        ApiKey.ApiKeyRevoked,
    ),
    one_by_one(apply),
)


def keys_of(connection: Connection, account_id: UUID) -> list[Row]:
    """Return the rows of an account's keys, oldest first."""
    return connection.execute(
        "SELECT * FROM api_keys WHERE account_id = %s ORDER BY issued_at, key_id", [account_id]
    ).fetchall()


def key_of(connection: Connection, account_id: UUID, key_id: UUID) -> Row | None:
    """Return a key of an account, or None."""
    return connection.execute(
        "SELECT * FROM api_keys WHERE account_id = %s AND key_id = %s", [account_id, key_id]
    ).fetchone()


def active_keys(connection: Connection, account_id: UUID, now: datetime) -> int:
    """Return the number of an account's keys that are neither revoked nor expired."""
    query = (
        "SELECT count(*) FROM api_keys WHERE account_id = %s AND revoked_at IS NULL "
        "AND coalesce(expires_at > %s, true)"
    )
    return scalar(connection, query, [account_id, now])
