"""Projections: their tables, their handling of events, and the effect that runs them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, LiteralString, get_args
from uuid import UUID

import psycopg
from psycopg.rows import DictRow, dict_row
from pydantic import BaseModel
from pydantic_core import to_json

from domain.core.aggregate import Created, Event
from domain.core.recorded import Recorded
from domain.core.topics import Kind, topics_of
from infrastructure.postgres.store import Connection, scalar

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


Fold = Callable[[Cursor, Sequence[Recorded]], None]
"""A function that applies events to tables, in order. It must not use the cursor's row count.

The statements run in a pipeline, so the row count of a statement is not known yet.
"""


def one_by_one(apply: Callable[[Cursor, Event], None]) -> Fold:
    """Return a fold that applies one event after the other."""

    def apply_each(cursor: Cursor, batch: Sequence[Recorded]) -> None:
        for each in batch:
            apply(cursor, each.event)

    return apply_each


@dataclass(frozen=True)
class Projection:
    """A read model. The projector computes its tables from the event log.

    `ddl` names the tables without a schema, so that an audit can rebuild them in another schema.
    `reads` names the events that `apply` receives. The other events are not even decoded. Increment
    `fold` when `apply` changes, so that the migration rebuilds the tables. `contents` describes the
    events that the tables store whole; see `fields_of`.
    """

    name: str
    tables: tuple[str, ...]
    ddl: str
    reads: tuple[Kind, ...]
    apply: Fold
    fold: int = 1
    contents: str = ""

    @cached_property
    def topics(self) -> frozenset[str]:
        """Topics of the events that the read model needs."""
        return topics_of(*self.reads)

    def take(self, cursor: Cursor, batch: Sequence[Recorded]) -> None:
        """Apply those events of a batch that the read model needs."""
        needed = [each for each in batch if each.topic in self.topics]
        if needed:
            self.apply(cursor, needed)

    @property
    def shape(self) -> str:
        """Hash of what determines the rows. After a change, the migration rebuilds the tables."""
        text = f"{self.ddl}\nfold {self.fold}{self.contents}"
        return hashlib.sha256(text.encode()).hexdigest()


def fields_of(*kinds: type[Event]) -> str:
    """Return the names of the fields of all events of some kinds, by topic, as JSON.

    They include the fields of the values in an event, but not those that all events have.

    An event that was stored before it had a field is read with the field's default. So a table that
    stores whole events has other rows after a rebuild.
    """
    found: dict[str, Any] = {}
    open_kinds = list(kinds)
    while open_kinds:
        kind = open_kinds.pop()
        open_kinds += kind.__subclasses__()
        if topic := getattr(kind, "TOPIC", None):
            names = _names_in(kind)
            found[topic] = {
                name: names[name] for name in names.keys() - Created.model_fields.keys()
            }
    return json.dumps(found, sort_keys=True)


def _names_in(model: type[BaseModel]) -> dict[str, Any]:
    """Return the names of a model's fields, each with the names in its values."""
    return {name: _names_of(field.annotation) for name, field in model.model_fields.items()}


def _names_of(annotation: Any) -> dict[str, Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _names_in(annotation)
    names: dict[str, Any] = {}
    for part in get_args(annotation):
        names |= _names_of(part)
    return names


def is_prepared(connection: psycopg.Connection[Any], projection: Projection) -> bool:
    """Return True if the tables have the projection's current shape."""
    found = connection.execute(
        "SELECT FROM projection_shapes WHERE name = %s AND ddl_sha256 = %s",
        [projection.name, projection.shape],
    )
    return found.rowcount > 0


class ForeignShape(Exception):
    """The tables of some projections have the shape of another release of EcoLink."""

    def __init__(self, projections: Sequence[Projection]) -> None:
        names = ", ".join(each.name for each in projections)
        super().__init__(
            f"The migration of another release rebuilt {names}. Run a projector of that release, "
            "or `python -m deploy.migrate` of this one."
        )
        self.projections = tuple(projections)


def foreign(connection: Connection, projections: Sequence[Projection]) -> list[Projection]:
    """Return the projections whose tables the migration of another release has rebuilt."""
    return _foreign(_ask_shapes(connection, projections), projections)


def _ask_shapes(connection: Connection, projections: Sequence[Projection]) -> Cursor:
    return connection.execute(
        "SELECT name, ddl_sha256 FROM projection_shapes WHERE name = ANY(%s)",
        [names_of(projections)],
        prepare=False,
    )


def _foreign(found: Cursor, projections: Sequence[Projection]) -> list[Projection]:
    shapes = {row["name"]: row["ddl_sha256"] for row in found.fetchall()}
    return [each for each in projections if shapes.get(each.name, each.shape) != each.shape]


def names_of(projections: Sequence[Projection]) -> list[str]:
    """Return the names of projections."""
    return [each.name for each in projections]


def consumer_name(projection: Projection) -> str:
    """Return the name of the consumer that applies events to a projection."""
    return f"projection-{projection.name}"


Connect = Callable[[], AbstractContextManager[Connection]]


class ProjectionEffect:
    """An effect that commits the rows of a projection together with its position."""

    def __init__(self, projection: Projection, connect: Connect) -> None:
        self.name = consumer_name(projection)
        self._projection = projection
        self._connect = connect

    def position(self) -> int:
        """Return the notification ID of the last applied event."""
        with self._connect() as connection:
            return lowest_position(connection, [self._projection])

    def apply(self, batch: Sequence[Recorded]) -> None:
        """Apply a batch of events in one transaction. Skip events that were already applied."""
        with self._connect() as connection:
            apply_batch(connection, [self._projection], batch)


def apply_batch(
    connection: Connection, projections: Sequence[Projection], batch: Sequence[Recorded]
) -> None:
    """Apply a batch of events to projections, with their positions, in one transaction.

    Each projection skips the events that it has already applied. Raise ForeignShape, without any
    effect, if another release has rebuilt some of the tables. The swap of a rebuild locks the
    positions, so the shapes cannot change until the transaction ends.
    """
    with connection.pipeline(), connection.transaction(), connection.cursor() as cursor:
        # A join would see the shapes of before the wait for the lock. Both queries are sent before
        # the first result is read, so the second one costs no round trip.
        locked = _ask_positions(cursor, projections)
        shapes = _ask_shapes(connection, projections)
        positions = _positions(locked)
        if changed := _foreign(shapes, projections):
            raise ForeignShape(changed)
        for projection in projections:
            position = positions[projection.name]
            projection.take(cursor, [each for each in batch if each.id > position])
        set_positions(cursor, projections, batch[-1].id)


def lock_positions(cursor: Cursor, projections: Sequence[Projection]) -> dict[str, int]:
    """Return the positions of projections by name, and lock them until the transaction ends."""
    return _positions(_ask_positions(cursor, projections))


def _ask_positions(cursor: Cursor, projections: Sequence[Projection]) -> Cursor:
    names = names_of(projections)
    cursor.execute(
        "INSERT INTO projection_positions SELECT unnest(%s::text[]), 0 ON CONFLICT DO NOTHING",
        [names],
    )
    return cursor.connection.cursor(row_factory=dict_row).execute(
        "SELECT name, position FROM projection_positions WHERE name = ANY(%s) "
        "ORDER BY name FOR UPDATE",
        [names],
        prepare=False,
    )


def _positions(locked: Cursor) -> dict[str, int]:
    return {row["name"]: row["position"] for row in locked.fetchall()}


def set_positions(cursor: Cursor, projections: Sequence[Projection], position: int) -> None:
    """Set the positions of projections, except for those that are already higher."""
    cursor.execute(
        "UPDATE projection_positions SET position = greatest(position, %s) WHERE name = ANY(%s)",
        [position, names_of(projections)],
    )


def select(cursor: Cursor, query: LiteralString, *values: object) -> list[Row]:
    """Return the rows of a query, after all statements that were executed before.

    A fold must use a cursor of its own for a query: in a pipeline, a cursor that has executed
    another statement may return the result of that one. The query is planned each time, because a
    plan for small tables is slow after they have grown, for example during a rebuild.
    """
    with cursor.connection.cursor(row_factory=dict_row) as reading:
        return reading.execute(query, values, prepare=False).fetchall()


def insert(cursor: Cursor, table: str, **columns: object) -> None:
    """Insert a row. The names of the table and the columns must be constants in the code."""
    values = ", ".join(["%s"] * len(columns))
    cursor.execute(
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values})",  # type: ignore[arg-type]
        list(columns.values()),
    )


def insert_rows(cursor: Cursor, table: LiteralString, rows: Sequence[Row]) -> None:
    """Insert rows with all their columns in one statement."""
    if rows:
        cursor.execute(
            f"INSERT INTO {table} SELECT * FROM json_populate_recordset(NULL::{table}, %s)",
            [json_text(rows)],
        )


def json_text(value: object) -> str:
    """Return a value as JSON, for PostgreSQL's functions that turn an array into rows."""
    return to_json(value).decode()


def update(cursor: Cursor, table: str, key: Mapping[str, object], **columns: object) -> None:
    """Update the rows that match `key`. All names must be constants in the code."""
    assignments = ", ".join(f"{name} = %s" for name in columns)
    condition = " AND ".join(f"{name} = %s" for name in key)
    cursor.execute(
        f"UPDATE {table} SET {assignments} WHERE {condition}",  # type: ignore[arg-type]
        [*columns.values(), *key.values()],
    )


@dataclass(frozen=True)
class NewestFirst:
    """A list of an account's rows by time, newest first. Rows of the same time are sorted by key.

    `table`, `time` and `key` are names. `table` can also be a subquery.
    """

    table: LiteralString
    time: LiteralString
    key: LiteralString

    def page(
        self,
        connection: Connection,
        account_id: UUID,
        after: object = None,
        limit: int | None = None,
        condition: LiteralString = "true",
        **values: object,
    ) -> list[Row]:
        """Return up to `limit` rows after the row whose key is `after`.

        New rows come before a page and do not shift it. `condition` is an additional condition on
        `row`, with parameters in `values`.
        """
        table, time, key = self.table, self.time, self.key
        return connection.execute(
            f"SELECT row.* FROM {table} AS row LEFT JOIN {table} AS last "
            f"ON last.{key} = %(after)s AND last.account_id = row.account_id "
            f"WHERE row.account_id = %(account)s AND {condition} AND (%(all)s "
            f"OR row.{time} < last.{time} "
            f"OR (row.{time} = last.{time} AND row.{key} > last.{key})) "
            f"ORDER BY row.{time} DESC, row.{key} LIMIT %(limit)s",
            {"account": account_id, "after": after, "all": after is None, "limit": limit, **values},
        ).fetchall()


def positions_of(connection: Connection, projections: Sequence[Projection]) -> dict[str, int]:
    """Return the notification IDs of the last events that projections have applied, by name."""
    rows = connection.execute(
        "SELECT name, coalesce(position, 0) AS position FROM unnest(%s::text[]) AS wanted (name) "
        "LEFT JOIN projection_positions USING (name)",
        [[projection.name for projection in projections]],
    ).fetchall()
    return {row["name"]: row["position"] for row in rows}


def lowest_position(connection: Connection, projections: Sequence[Projection]) -> int:
    """Return the notification ID of the last event that all given projections have applied."""
    return min(positions_of(connection, projections).values())


SEARCHED_IDS = 50_000
"""Number of notification IDs at the end of the log in which `newest_needed` searches.

A search takes about 10 ms. The projections of 10,000 running jobs are 15,000 events behind.
"""

NEWEST_NEEDED = """
WITH searched AS (
    SELECT greatest(%(position)s::bigint, max(notification_id) - %(most)s) AS start
    FROM ecolink_events
)
SELECT coalesce((SELECT max(notification_id) FROM ecolink_events
    WHERE notification_id > start AND topic = ANY(%(topics)s)), start) FROM searched
"""


def newest_needed(connection: Connection, projections: Sequence[Projection], position: int) -> int:
    """Return the notification ID of the newest event after a position that projections need.

    If there is none, return the position. Events before the last SEARCHED_IDS are not searched, and
    count as needed.
    """
    topics = frozenset[str]().union(*(projection.topics for projection in projections))
    values = {"position": position, "most": SEARCHED_IDS, "topics": sorted(topics)}
    return scalar(connection, NEWEST_NEEDED, values)


COUNTED_EVENTS = 1000


def behind(connection: Connection, consumers: Sequence[str]) -> list[Row]:
    """Return the given consumers that are behind, in the given order.

    A row has the number of unprocessed `events`, and the time of the first of them (`since`). Above
    COUNTED_EVENTS, the number is the difference of the notification IDs, which includes their gaps,
    because counting millions of events takes seconds.
    """
    return connection.execute(
        "WITH known AS (SELECT 'projection-' || name AS consumer, position "
        "FROM projection_positions UNION ALL SELECT application_name, max(notification_id) "
        "FROM ecolink_tracking GROUP BY application_name) "
        "SELECT consumer, CASE WHEN counted <= %(most)s THEN counted "
        "ELSE (SELECT max(notification_id) FROM ecolink_events) - coalesce(position, 0) END "
        "AS events, (convert_from(state, 'UTF8')::jsonb ->> 'timestamp')::timestamptz AS since "
        "FROM unnest(%(consumers)s::text[]) WITH ORDINALITY AS wanted (consumer, n) "
        "LEFT JOIN known USING (consumer) "
        "CROSS JOIN LATERAL (SELECT count(*) AS counted, min(notification_id) AS first "
        "FROM (SELECT notification_id FROM ecolink_events "
        "WHERE notification_id > coalesce(position, 0) ORDER BY 1 LIMIT %(most)s + 1) AS next) "
        "AS unseen JOIN ecolink_events ON notification_id = first ORDER BY n",
        {"consumers": list(consumers), "most": COUNTED_EVENTS},
    ).fetchall()
