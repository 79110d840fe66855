"""New and changed rows of a table, merged by key and written with few statements."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import LiteralString
from uuid import UUID

from psycopg.abc import Params

from projections.projection import Cursor, Row, json_text, select


class MergedRows:
    """Inserts and updates of the rows of a table that the events of a batch cause.

    Several events of a batch often change the same row. Their changes are merged, and `write` runs
    one statement for all rows with the same columns. The names of the table, its key and its
    columns must be constants in the code. The values are written as JSON: a float must not be NaN
    or infinite, and the value of an integer column must be an int (5, not 5.0).
    """

    def __init__(self, cursor: Cursor, table: LiteralString, key: LiteralString) -> None:
        self._cursor, self._table, self._key = cursor, table, key
        self._new: dict[UUID, Row] = {}
        self._changed: dict[UUID, Row] = {}
        self._loaded: dict[UUID, Row] = {}

    def load(self, ids: Collection[UUID], columns: Sequence[str]) -> None:
        """Read columns of stored rows, for `row`. Call this before any change."""
        names, table, key = ", ".join([self._key, *columns]), self._table, self._key
        query = f"SELECT {names} FROM {table} WHERE {key} = ANY(%s)"
        found = select(self._cursor, query, [*ids])  # type: ignore[arg-type]
        self._loaded = {row[key]: row for row in found}

    def row(self, id: UUID) -> Row | None:
        """Return the loaded or inserted columns of a row, with all changes, or None."""
        return self._new[id] if id in self._new else self._loaded.get(id)

    def insert(self, id: UUID, **columns: object) -> None:
        """Insert a row. The other columns get their defaults."""
        self._write_row(id)  # the table rejects a second row with the same key
        self._new[id] = columns

    def update(self, id: UUID, **columns: object) -> None:
        """Change columns of a row, if it exists."""
        if id in self._new:
            self._new[id].update(columns)
            return
        self._changed.setdefault(id, {}).update(columns)
        if id in self._loaded:
            self._loaded[id].update(columns)

    def execute(self, id: UUID, statement: LiteralString, values: Params) -> None:
        """Run a statement that reads or changes a row, after the changes before it."""
        self._write_row(id)
        self._cursor.execute(statement, values)

    def _write_row(self, id: UUID) -> None:
        if id in self._new or id in self._changed:
            self.write()

    def write(self) -> None:
        """Write all rows."""
        table, key = self._table, self._key
        for names, rows in _by_columns(self._new, key).items():
            columns = ", ".join(names)
            self._execute(
                f"INSERT INTO {table} ({columns}) SELECT {columns} "
                f"FROM json_populate_recordset(NULL::{table}, %s)",
                rows,
            )
        for names, rows in _by_columns(self._changed, key).items():
            assignments = ", ".join(f"{name} = changed.{name}" for name in names if name != key)
            self._execute(
                f"UPDATE {table} SET {assignments} "
                f"FROM json_populate_recordset(NULL::{table}, %s) AS changed "
                f"WHERE {table}.{key} = changed.{key}",
                rows,
            )
        self._new, self._changed = {}, {}

    def _execute(self, statement: str, rows: list[Row]) -> None:
        # A plan for small tables is slow after they have grown.
        self._cursor.execute(statement.encode(), [json_text(rows)], prepare=False)


def _by_columns(rows: dict[UUID, Row], key: str) -> dict[tuple[str, ...], list[Row]]:
    """Return the rows with their keys, by the names of their columns."""
    found = defaultdict[tuple[str, ...], list[Row]](list)
    for id, row in rows.items():
        whole = {key: id, **row}
        found[tuple(sorted(whole))].append(whole)
    return found
