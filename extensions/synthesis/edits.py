"""Edits of generated examples before they become a dataset.

They are rows, so that an edit costs the same however many there are, and replaces the earlier one.
Events have only their numbers.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from infrastructure.extensions import Table
from infrastructure.postgres.store import EXCLUSIVE, Connection, scalar

EDITS = Table(
    name="synthesis_edits",
    owner="account_id",
    aggregate="synthesis_id",
    ddl="""
CREATE TABLE IF NOT EXISTS synthesis_edits (
    synthesis_id uuid NOT NULL,
    account_id uuid NOT NULL,
    number integer NOT NULL,
    messages jsonb NOT NULL,
    removed boolean NOT NULL,
    edited_at timestamptz NOT NULL,
    PRIMARY KEY (synthesis_id, number)
);
CREATE INDEX IF NOT EXISTS synthesis_edits_of_account ON synthesis_edits (account_id)
""",
)

SHARED: LiteralString = "SELECT pg_try_advisory_xact_lock_shared(hashtextextended(%s, 0))"


@dataclass(frozen=True)
class Edit:
    """The edit of an example. Without messages, they are the generated ones."""

    number: int  # of the example, from 1
    messages: list[dict[str, Any]]
    removed: bool


@dataclass(frozen=True)
class EditCounts:
    """The numbers of edited and removed examples, and the time of the newest edit."""

    edited: int = 0
    removed: int = 0
    newest: datetime | None = None


@contextmanager
def locked_edits(connection: Connection, synthesis_id: UUID, *, for_edit: bool) -> Generator[bool]:
    """Hold a lock that edits share and the dataset's creation excludes. Yield False at once."""
    query = SHARED if for_edit else EXCLUSIVE
    with connection.transaction():
        yield scalar(connection, query, [f"edits:{synthesis_id}"])


def set_messages(
    connection: Connection,
    account_id: UUID,
    synthesis_id: UUID,
    number: int,
    messages: Sequence[dict[str, Any]],
) -> None:
    """Replace the messages of an example."""
    connection.execute(
        "INSERT INTO synthesis_edits VALUES (%s, %s, %s, %s, false, clock_timestamp()) "
        "ON CONFLICT (synthesis_id, number) "
        "DO UPDATE SET messages = excluded.messages, edited_at = excluded.edited_at",
        [synthesis_id, account_id, number, Jsonb(list(messages))],
    )


def set_removed(
    connection: Connection, account_id: UUID, synthesis_id: UUID, number: int, removed: bool
) -> None:
    """Remove an example, or restore it. Its messages stay as they are."""
    connection.execute(
        "INSERT INTO synthesis_edits VALUES (%s, %s, %s, '[]', %s, clock_timestamp()) "
        "ON CONFLICT (synthesis_id, number) "
        "DO UPDATE SET removed = excluded.removed, edited_at = excluded.edited_at",
        [synthesis_id, account_id, number, removed],
    )


def edit_sizes(connection: Connection, synthesis_id: UUID, after: int, last: int) -> dict[int, int]:
    """Return the bytes of edits of examples with numbers above `after`, up to `last`."""
    rows = connection.execute(
        "SELECT number, octet_length(messages::text) AS size FROM synthesis_edits "
        "WHERE synthesis_id = %s AND number > %s AND number <= %s",
        [synthesis_id, after, last],
    ).fetchall()
    return {row["number"]: row["size"] for row in rows}


def edits_between(
    connection: Connection, synthesis_id: UUID, after: int, last: int
) -> dict[int, Edit]:
    """Return the edits of examples with numbers above `after`, up to `last`."""
    with connection.cursor(row_factory=class_row(Edit)) as cursor:
        found = cursor.execute(
            "SELECT number, messages, removed FROM synthesis_edits "
            "WHERE synthesis_id = %s AND number > %s AND number <= %s",
            [synthesis_id, after, last],
        ).fetchall()
    return {each.number: each for each in found}


def counts_of_edits(
    connection: Connection, synthesis_ids: Sequence[UUID]
) -> dict[UUID, EditCounts]:
    """Return the numbers of edits of syntheses that have some, by synthesis ID."""
    rows = connection.execute(
        "SELECT synthesis_id, count(*) FILTER (WHERE messages <> '[]') AS edited, "
        "count(*) FILTER (WHERE removed) AS removed, max(edited_at) AS newest "
        "FROM synthesis_edits WHERE synthesis_id = ANY(%s) GROUP BY synthesis_id",
        [list(synthesis_ids)],
    ).fetchall()
    return {
        row["synthesis_id"]: EditCounts(row["edited"], row["removed"], row["newest"])
        for row in rows
    }


def edit_counts(connection: Connection, synthesis_id: UUID) -> EditCounts:
    """Return the numbers of edits of a synthesis."""
    return counts_of_edits(connection, [synthesis_id]).get(synthesis_id, EditCounts())
