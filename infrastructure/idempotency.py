"""Command keys of requests, for clients that try again without sending a key of their own."""

from __future__ import annotations

from uuid import UUID

from infrastructure.store import Connection

DDL = """
CREATE TABLE IF NOT EXISTS request_keys (
    account_id uuid NOT NULL,
    request_sha256 text NOT NULL,
    command_key text NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, request_sha256)
)
"""

KEPT = "1 day"
"""Far longer than any client goes on trying."""


def give_key(connection: Connection, account_id: UUID, request_sha256: str, key: str) -> None:
    """Keep the key of a new request, also if an equal one was made before."""
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
    """The key that the same request got before; the one given if it never arrived."""
    row = connection.execute(
        "INSERT INTO request_keys AS known VALUES (%s, %s, %s) "
        "ON CONFLICT (account_id, request_sha256) DO UPDATE SET command_key = known.command_key "
        "RETURNING command_key",
        [account_id, request_sha256, key],
    ).fetchone()
    assert row is not None
    return row["command_key"]
