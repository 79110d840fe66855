"""Idempotency keys for clients that repeat a request without a key."""

from __future__ import annotations

from uuid import UUID

from infrastructure.postgres.store import Connection

DDL = """
CREATE TABLE IF NOT EXISTS request_keys (
    account_id uuid NOT NULL,
    request_sha256 text NOT NULL,
    command_key text NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, request_sha256)
)
"""

KEPT = "12 minutes"
"""Maximum time between two attempts of a request. The `openai` client times out after 10 min."""


def give_key(connection: Connection, account_id: UUID, request_sha256: str, key: str) -> None:
    """Store the key of a new request. Replace the key of an earlier identical request."""
    connection.execute(
        "DELETE FROM request_keys WHERE account_id = %s AND asked_at < now() - %s::interval",
        [account_id, KEPT],
    )
    connection.execute(
        "INSERT INTO request_keys VALUES (%s, %s, %s) ON CONFLICT (account_id, request_sha256) "
        "DO UPDATE SET command_key = excluded.command_key, asked_at = excluded.asked_at",
        [account_id, request_sha256, key],
    )


def repeated_key(connection: Connection, account_id: UUID, request_sha256: str, key: str) -> str:
    """Return the previous attempt's key, or `key` if there was none within `KEPT`."""
    row = connection.execute(
        "INSERT INTO request_keys AS known VALUES (%(account)s, %(request)s, %(key)s) "
        "ON CONFLICT (account_id, request_sha256) DO UPDATE SET asked_at = excluded.asked_at, "
        "command_key = CASE WHEN known.asked_at < now() - %(kept)s::interval "
        "THEN excluded.command_key ELSE known.command_key END RETURNING command_key",
        {"account": account_id, "request": request_sha256, "key": key, "kept": KEPT},
    ).fetchone()
    assert row is not None
    return row["command_key"]
