"""Tables of exports: their progress, and the targets of pushes to a hub.

Targets are rows, not events, because the account holder wrote the repository's name and because a
token must be deleted. The tokens have a table of their own, which the gateway cannot read and no
backup contains. The exporter deletes the token when the push ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from infrastructure.extensions import Table
from infrastructure.postgres.store import Connection

PROGRESS = Table(
    name="export_progress",
    kept="Bytes of running exports, which are deleted when they end.",
    ephemeral=True,
    ddl="""
CREATE TABLE IF NOT EXISTS export_progress (
    export_id uuid PRIMARY KEY,
    done_bytes bigint NOT NULL,
    total_bytes bigint NOT NULL
)
""",
)

TARGETS = Table(
    name="hub_targets",
    owner="account_id",
    ddl="""
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
)
""",
)

TOKENS = Table(
    name="hub_tokens",
    cascades=True,
    ephemeral=True,
    ddl="""
CREATE TABLE IF NOT EXISTS hub_tokens (
    push_id uuid PRIMARY KEY REFERENCES hub_targets ON DELETE CASCADE,
    token text NOT NULL
)
""",
)

TABLES = (PROGRESS, TARGETS, TOKENS)


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


def set_export_progress(
    connection: Connection, export_id: UUID, done_bytes: int, total_bytes: int
) -> None:
    """Store the progress of an export."""
    connection.execute(
        "INSERT INTO export_progress VALUES (%s, %s, %s) ON CONFLICT (export_id) "
        "DO UPDATE SET done_bytes = excluded.done_bytes, total_bytes = excluded.total_bytes",
        [export_id, done_bytes, total_bytes],
    )


def delete_export_progress(connection: Connection, export_id: UUID) -> None:
    """Delete the progress of an export that ended."""
    connection.execute("DELETE FROM export_progress WHERE export_id = %s", [export_id])


def export_progress(
    connection: Connection, export_ids: Sequence[UUID]
) -> dict[UUID, tuple[int, int]]:
    """Return the done and total bytes of running exports, by ID."""
    rows = connection.execute(
        "SELECT * FROM export_progress WHERE export_id = ANY(%s)", [list(export_ids)]
    ).fetchall()
    return {row["export_id"]: (row["done_bytes"], row["total_bytes"]) for row in rows}
