"""Job drafts, one per account. They are not in the event log, because users can delete them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import UUID

from psycopg.types.json import Jsonb

from infrastructure.postgres.store import Connection

DDL = """
CREATE TABLE IF NOT EXISTS job_drafts (
    account_id uuid PRIMARY KEY,
    fields jsonb NOT NULL,
    saved_at timestamptz NOT NULL,
    tab text NOT NULL,
    revision bigint NOT NULL
)
"""


class Revision(NamedTuple):
    """The browser tab that shows a draft's form, and the number of changes made there."""

    tab: str
    number: int


def draft_of(connection: Connection, account_id: UUID) -> dict[str, Any] | None:
    """Return the fields of an account's draft as entered, or None."""
    row = connection.execute(
        "SELECT fields FROM job_drafts WHERE account_id = %s AND fields <> '{}'", [account_id]
    ).fetchone()
    return None if row is None else row["fields"]


def save_draft(
    connection: Connection, account_id: UUID, fields: Mapping[str, Any], revision: Revision
) -> None:
    """Replace an account's draft, unless the stored draft is a later revision from the same tab."""
    connection.execute(
        "INSERT INTO job_drafts (account_id, fields, saved_at, tab, revision) "
        "VALUES (%s, %s, now(), %s, %s) ON CONFLICT (account_id) DO UPDATE SET "
        "fields = excluded.fields, saved_at = excluded.saved_at, tab = excluded.tab, "
        "revision = excluded.revision "
        "WHERE job_drafts.tab <> excluded.tab OR job_drafts.revision < excluded.revision",
        [account_id, Jsonb(dict(fields)), *revision],
    )


def close_draft(connection: Connection, account_id: UUID, revision: Revision) -> None:
    """Clear a form's draft unless a newer one exists. Its revision stays, for delayed saves."""
    connection.execute(
        "UPDATE job_drafts SET fields = '{}', revision = greatest(revision, %s) "
        "WHERE account_id = %s AND tab = %s",
        [revision.number, account_id, revision.tab],
    )


def delete_draft(connection: Connection, account_id: UUID) -> None:
    """Delete an account's draft."""
    connection.execute("DELETE FROM job_drafts WHERE account_id = %s", [account_id])
