"""The format of the event log that a database uses. See `domain.core.event_format`."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.rows import dict_row

from domain.core.event_format import FORMAT, NewerFormat
from infrastructure.process.code_version import package_version

DDL = """
CREATE TABLE IF NOT EXISTS event_formats (
    format integer PRIMARY KEY,
    version text NOT NULL,
    raised_by text NOT NULL,
    raised_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""
"""Table of the formats that were in use. The newest one is in use now.

`version` is the version of EcoLink that raised the format, and `raised_by` the actor. A database of
before the first release has no row and uses format 1.
"""

IN_USE = """
SELECT coalesce(max(format), 1) AS format,
    coalesce((array_agg(version ORDER BY format DESC))[1], '0') AS version
FROM event_formats
"""

RAISE = (
    "INSERT INTO event_formats (format, version, raised_by) VALUES (%s, %s, %s) "
    "ON CONFLICT DO NOTHING"
)

BEGIN = (
    "INSERT INTO event_formats (format, version, raised_by) SELECT "
    "CASE WHEN EXISTS (SELECT FROM ecolink_events) THEN 1 ELSE %s END, %s, 'service:migrate' "
    "WHERE NOT EXISTS (SELECT FROM event_formats)"
)


def format_in_use(connection: psycopg.Connection[Any]) -> int:
    """Return the format in use. Raise NewerFormat if this version of EcoLink cannot read it."""
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(IN_USE).fetchone()
    assert row is not None
    if row["format"] > FORMAT:
        raise NewerFormat(row["format"], row["version"])
    return row["format"]


def require_readable(connection: psycopg.Connection[Any]) -> None:
    """Raise NewerFormat if the database uses a newer format. It may have no tables yet."""
    with connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(
            "SELECT to_regclass('public.event_formats') IS NOT NULL AS found"
        ).fetchone()
    if found is not None and found["found"]:
        format_in_use(connection)


def begin_format(connection: psycopg.Connection[Any]) -> None:
    """Store the format of a new database: that of this version, or 1 if it already has events."""
    connection.execute(BEGIN, [FORMAT, package_version()])


def raise_format(connection: psycopg.Connection[Any], actor: str) -> None:
    """Raise the format in use to that of this version of EcoLink."""
    connection.execute(RAISE, [FORMAT, package_version(), actor])
