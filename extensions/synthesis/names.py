"""Names of syntheses, which users enter and can delete, outside of the event log."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from infrastructure.extensions import Table
from infrastructure.postgres.store import Connection

NAMES = Table(
    name="synthesis_names",
    owner="account_id",
    aggregate="synthesis_id",
    ddl="""
CREATE TABLE IF NOT EXISTS synthesis_names (
    synthesis_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    name text NOT NULL
);
CREATE INDEX IF NOT EXISTS synthesis_names_of_account ON synthesis_names (account_id)
""",
)


def set_synthesis_name(
    connection: Connection, account_id: UUID, synthesis_id: UUID, name: str
) -> None:
    """Store the name of a synthesis, unless it already has one."""
    connection.execute(
        "INSERT INTO synthesis_names VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        [synthesis_id, account_id, name],
    )


def synthesis_names(connection: Connection, synthesis_ids: Sequence[UUID]) -> dict[UUID, str]:
    """Return the names of the given syntheses, by synthesis ID."""
    rows = connection.execute(
        "SELECT synthesis_id, name FROM synthesis_names WHERE synthesis_id = ANY(%s)",
        [list(synthesis_ids)],
    ).fetchall()
    return {row["synthesis_id"]: row["name"] for row in rows}
