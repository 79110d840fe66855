"""What a projection is: its tables, its fold over events, and the effect that runs it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg.rows import DictRow

from domain.core.aggregate import Event
from infrastructure.consumer import Recorded
from infrastructure.store import Connection

Cursor = psycopg.Cursor[DictRow]
Row = dict[str, Any]

POSITIONS_DDL = """
CREATE TABLE IF NOT EXISTS projection_positions (
    name text PRIMARY KEY,
    position bigint NOT NULL
);
CREATE TABLE IF NOT EXISTS projection_shapes (
    name text PRIMARY KEY,
    ddl_sha256 text NOT NULL
)
"""


@dataclass(frozen=True)
class Projection:
    """A read model: tables that hold nothing but a fold of the event log.

    `ddl` names its tables without a schema, so that an audit can refold them elsewhere. `fold`
    counts the changes of `apply` by which an old log has other rows.
    """

    name: str
    tables: tuple[str, ...]
    ddl: str
    apply: Callable[[Cursor, Event], None]
    fold: int = 1

    @property
    def shape(self) -> str:
        """A hash of what rows have to be made anew for: their tables, and the count of `fold`."""
        told = self.ddl if self.fold == 1 else f"{self.ddl}\nfold {self.fold}"
        return hashlib.sha256(told.encode()).hexdigest()


def is_prepared(connection: psycopg.Connection[Any], projection: Projection) -> bool:
    """Whether the tables of a projection hold rows of its shape."""
    found = connection.execute(
        "SELECT 1 FROM projection_shapes WHERE name = %s AND ddl_sha256 = %s",
        [projection.name, projection.shape],
    )
    return found.fetchone() is not None


def consumer_name(projection: Projection) -> str:
    """Name of the consumer that folds events into a projection."""
    return f"projection-{projection.name}"


class ProjectionEffect:
    """Commits a projection's rows together with its position."""

    def __init__(
        self, projection: Projection, connect: Callable[[], AbstractContextManager[Connection]]
    ) -> None:
        self.name = consumer_name(projection)
        self._projection = projection
        self._connect = connect

    def position(self) -> int:
        """Notification id of the last event in the rows."""
        with self._connect() as connection:
            return lowest_position(connection, [self._projection])

    def apply(self, batch: Sequence[Recorded]) -> None:
        """Fold a batch into the rows, in one transaction; what is in them already is skipped."""
        with self._connect() as connection, connection.transaction(), connection.cursor() as cursor:
            position = lock_position(cursor, self._projection)
            for recorded in batch:
                if recorded.id > position:
                    self._projection.apply(cursor, recorded.event)
            set_position(cursor, self._projection, batch[-1].id)


def lock_position(cursor: Cursor, projection: Projection) -> int:
    """Position of a projection's rows, which nobody else changes before the transaction ends."""
    cursor.execute(
        "INSERT INTO projection_positions VALUES (%s, 0) ON CONFLICT DO NOTHING", [projection.name]
    )
    cursor.execute(
        "SELECT position FROM projection_positions WHERE name = %s FOR UPDATE", [projection.name]
    )
    row = cursor.fetchone()
    assert row is not None
    return row["position"]


def set_position(cursor: Cursor, projection: Projection, position: int) -> None:
    """Say which event the rows have seen last; a position never goes back."""
    cursor.execute(
        "UPDATE projection_positions SET position = greatest(position, %s) WHERE name = %s",
        [position, projection.name],
    )


def newest_first(
    connection: Connection,
    table: LiteralString,
    moment: LiteralString,
    key: LiteralString,
    account_id: UUID,
    after: object = None,
    limit: int | None = None,
    among: LiteralString = "true",
    **values: object,
) -> list[Row]:
    """An account's rows by a moment, the newest first; at the same moment by their key.

    A page has up to `limit` rows that come after the one whose key is `after`, of those that there
    are: what is made meanwhile comes before, and is not on it. `among` is a further condition on
    `row`, with values by name.
    """
    return connection.execute(
        f"SELECT row.* FROM {table} AS row LEFT JOIN {table} AS last "
        f"ON last.{key} = %(after)s AND last.account_id = row.account_id "
        f"WHERE row.account_id = %(account)s AND {among} AND (%(all)s "
        f"OR row.{moment} < last.{moment} "
        f"OR (row.{moment} = last.{moment} AND row.{key} > last.{key})) "
        f"ORDER BY row.{moment} DESC, row.{key} LIMIT %(limit)s",
        {"account": account_id, "after": after, "all": after is None, "limit": limit, **values},
    ).fetchall()


def lowest_position(connection: Connection, projections: Sequence[Projection]) -> int:
    """Notification id of the last event that is in the rows of all of some projections."""
    names = [projection.name for projection in projections]
    row = connection.execute(
        "SELECT min(coalesce(position, 0)) AS position FROM unnest(%s::text[]) AS wanted (name) "
        "LEFT JOIN projection_positions USING (name)",
        [names],
    ).fetchone()
    assert row is not None
    return row["position"]
