"""Drafts of jobs that nobody approved yet, one for each account: deletable, so not in the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from infrastructure.store import Connection

DDL = """
CREATE TABLE IF NOT EXISTS job_drafts (
    account_id uuid PRIMARY KEY,
    fields jsonb NOT NULL,
    saved_at timestamptz NOT NULL
)
"""


def draft_of(connection: Connection, account_id: UUID) -> dict[str, Any] | None:
    """The fields of an account's draft, as they were typed."""
    row = connection.execute(
        "SELECT fields FROM job_drafts WHERE account_id = %s", [account_id]
    ).fetchone()
    return None if row is None else row["fields"]


def save_draft(connection: Connection, account_id: UUID, fields: Mapping[str, Any]) -> None:
    """Keep a draft in place of the one before it; what is the same is not written again."""
    connection.execute(
        "INSERT INTO job_drafts VALUES (%s, %s, now()) ON CONFLICT (account_id) DO UPDATE "
        "SET fields = excluded.fields, saved_at = excluded.saved_at "
        "WHERE job_drafts.fields <> excluded.fields",
        [account_id, Jsonb(dict(fields))],
    )


def delete_draft(connection: Connection, account_id: UUID) -> None:
    """Forget an account's draft."""
    connection.execute("DELETE FROM job_drafts WHERE account_id = %s", [account_id])
