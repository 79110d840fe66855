"""Targets of pushes to a hub: the repository, and the token.

They are rows, not events, because the account holder wrote the name and because a token must be
deleted. The tokens have a table of their own, which the gateway cannot read and no backup contains.
The exporter deletes the token when the push ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from infrastructure.postgres.store import Connection

DDL = """
CREATE TABLE IF NOT EXISTS hub_targets (
    push_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    repository text NOT NULL,
    private boolean NOT NULL,
    provenance boolean NOT NULL,
    created_at timestamptz NOT NULL,
    done_bytes bigint NOT NULL DEFAULT 0,
    url text,
    message text
);
CREATE TABLE IF NOT EXISTS hub_tokens (
    push_id uuid PRIMARY KEY REFERENCES hub_targets ON DELETE CASCADE,
    token text NOT NULL
)
"""


class Target(NamedTuple):
    """A repository, what it gets, and a token that may write to it.

    `private` refuses a public repository. `provenance` is False to leave out
    provenance.json. `token` is None if it was deleted.
    """

    repository: str
    private: bool
    provenance: bool
    token: str | None


def add_target(
    connection: Connection, push_id: UUID, account_id: UUID, target: Target, now: datetime
) -> None:
    """Store the target of a push, with its token. Idempotent."""
    with connection.transaction():
        added = connection.execute(
            "INSERT INTO hub_targets (push_id, account_id, repository, private, provenance, "
            "created_at) VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (push_id) DO NOTHING",
            [push_id, account_id, target.repository, target.private, target.provenance, now],
        )
        if added.rowcount:
            connection.execute("INSERT INTO hub_tokens VALUES (%s, %s)", [push_id, target.token])


def delete_target(connection: Connection, push_id: UUID) -> None:
    """Delete the target of a push that was never recorded, with its token."""
    connection.execute("DELETE FROM hub_targets WHERE push_id = %s", [push_id])


def target_of(connection: Connection, push_id: UUID) -> Target | None:
    """Return the target of a push, or None."""
    row = connection.execute(
        "SELECT repository, private, provenance, token FROM hub_targets "
        "LEFT JOIN hub_tokens USING (push_id) WHERE push_id = %s",
        [push_id],
    ).fetchone()
    return None if row is None else Target(**row)


def set_pushed_bytes(connection: Connection, push_id: UUID, done_bytes: int) -> None:
    """Store the progress of a push."""
    connection.execute(
        "UPDATE hub_targets SET done_bytes = %s WHERE push_id = %s", [done_bytes, push_id]
    )


def set_outcome(
    connection: Connection, push_id: UUID, url: str | None = None, message: str | None = None
) -> None:
    """Store the address of the commit, or the reason of the failure."""
    connection.execute(
        "UPDATE hub_targets SET url = %s, message = %s WHERE push_id = %s", [url, message, push_id]
    )


def delete_token(connection: Connection, push_id: UUID) -> None:
    """Delete the token of a push."""
    connection.execute("DELETE FROM hub_tokens WHERE push_id = %s", [push_id])


def stored_tokens(connection: Connection) -> dict[UUID, datetime]:
    """Return the pushes whose tokens are stored, and when they were requested."""
    rows = connection.execute(
        "SELECT push_id, created_at FROM hub_tokens JOIN hub_targets USING (push_id)"
    ).fetchall()
    return {row["push_id"]: row["created_at"] for row in rows}


def shown_targets(
    connection: Connection, push_ids: Sequence[UUID]
) -> dict[UUID, dict[str, object]]:
    """Return the targets of pushes, without their tokens, by ID."""
    rows = connection.execute(
        "SELECT push_id, repository, private, provenance, done_bytes, url, message "
        "FROM hub_targets WHERE push_id = ANY(%s)",
        [list(push_ids)],
    ).fetchall()
    return {row["push_id"]: row for row in rows}
