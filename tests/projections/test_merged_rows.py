"""Merged rows: types of columns, and the order of changes in a batch."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from infrastructure.settings import Settings
from projections.merged_rows import MergedRows
from projections.projection import Cursor, Row

ROW_ID = UUID(int=1)
AT = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


@pytest.fixture
def cursor(settings: Settings) -> Iterator[Cursor]:
    assert settings.owner_database_url is not None
    with (
        psycopg.connect(settings.owner_database_url, row_factory=dict_row) as owner,
        owner.cursor() as cursor,
    ):
        cursor.execute(
            "CREATE TEMPORARY TABLE samples (id uuid PRIMARY KEY, exact numeric, document jsonb, "
            "at timestamptz, names text[], amount bigint, ratio double precision, "
            "flag boolean, defaulted integer DEFAULT 7)"
        )
        yield cursor


def stored(cursor: Cursor) -> Row | None:
    return cursor.execute("SELECT * FROM samples WHERE id = %s", [ROW_ID]).fetchone()


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("exact", "0.1000000000000000000001", Decimal("0.1000000000000000000001")),
        ("document", {"a": [1, None, "é"]}, {"a": [1, None, "é"]}),
        ("at", AT, AT),
        ("names", ["a", 'b"', "c,d"], ["a", 'b"', "c,d"]),
        ("amount", 2**53 + 1, 2**53 + 1),
        ("ratio", 0.1, 0.1),
        ("ratio", 1e-300, 1e-300),
        ("flag", False, False),
        ("defaulted", None, None),
    ],
)
def test_a_value_is_stored_as_it_is(
    cursor: Cursor, column: str, value: object, expected: object
) -> None:
    rows = MergedRows(cursor, "samples", "id")
    rows.insert(ROW_ID, **{column: value})
    rows.write()
    row = stored(cursor)
    assert row is not None
    assert row[column] == expected


def test_an_absent_column_gets_its_default(cursor: Cursor) -> None:
    rows = MergedRows(cursor, "samples", "id")
    rows.insert(ROW_ID)
    rows.update(ROW_ID, flag=True)
    assert rows.row(ROW_ID) == {"flag": True}
    rows.write()
    row = stored(cursor)
    assert row is not None
    assert (row["flag"], row["defaulted"]) == (True, 7)


def test_a_row_is_inserted_changed_deleted_and_inserted_in_one_batch(cursor: Cursor) -> None:
    rows = MergedRows(cursor, "samples", "id")
    rows.insert(ROW_ID, amount=1)
    rows.update(ROW_ID, amount=2, flag=True)
    rows.execute(ROW_ID, "DELETE FROM samples WHERE id = %s", [ROW_ID])
    rows.insert(ROW_ID, amount=3)
    rows.update(uuid4(), amount=4)  # no such row
    rows.write()
    assert cursor.execute("SELECT amount, flag FROM samples").fetchall() == [
        {"amount": 3, "flag": None}
    ]


def test_a_loaded_row_has_the_changes_of_the_batch(cursor: Cursor) -> None:
    rows = MergedRows(cursor, "samples", "id")
    rows.insert(ROW_ID, amount=1, document=[{"step": 1}])
    rows.write()
    later = MergedRows(cursor, "samples", "id")
    later.load([ROW_ID, uuid4()], ["amount", "document"])
    later.update(ROW_ID, amount=2)
    assert later.row(ROW_ID) == {"id": ROW_ID, "amount": 2, "document": [{"step": 1}]}
    assert later.row(uuid4()) is None
    later.write()
    row = stored(cursor)
    assert row is not None
    assert (row["amount"], row["document"]) == (2, [{"step": 1}])
