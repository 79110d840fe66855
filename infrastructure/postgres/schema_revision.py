"""The revisions of the database schema that migrations have completed.

A revision is a hash of the tables, functions and rights that a version of EcoLink needs. A process
starts only if the database has its revision, because a migration may still be under way.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from infrastructure.postgres.database_url import connection_parameters
from infrastructure.postgres.format_in_use import require_readable
from infrastructure.postgres.primary import PrimaryConnection
from infrastructure.process.code_version import package_version
from infrastructure.settings import Settings

DDL = """
CREATE TABLE IF NOT EXISTS schema_revisions (
    number integer PRIMARY KEY,
    revision text NOT NULL UNIQUE,
    version text NOT NULL,
    migrated_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""
"""Table of the database's revisions, in order; of two versions during an upgrade."""

STORE = """
WITH own AS (
    INSERT INTO schema_revisions (number, revision, version)
    SELECT coalesce(max(number), 0) + 1, %(revision)s, %(version)s FROM schema_revisions
    ON CONFLICT (revision) DO UPDATE
        SET version = excluded.version, migrated_at = clock_timestamp()
    RETURNING number
)
DELETE FROM schema_revisions USING own WHERE schema_revisions.number > own.number
"""

FOUND = "SELECT FROM schema_revisions WHERE revision = %s"

POLL_SECONDS = 1.0

WAITING = ".waiting"
"""Ending of the file of a waiting process, which is alive but not ready, so it does not beat."""


def store_revision(connection: psycopg.Connection[Any], revision: str) -> None:
    """Record a revision. Remove later ones, which an older version's migration has undone."""
    connection.execute(STORE, {"revision": revision, "version": package_version()})


def has_revision(connection: psycopg.Connection[Any], revision: str) -> bool:
    """Return True if the database has a revision."""
    try:
        with connection.cursor(row_factory=tuple_row) as cursor:
            return cursor.execute(FOUND, [revision]).fetchone() is not None
    except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
        return False  # the migration has not created it, or has not granted access to it


def await_revision(settings: Settings, revision: str) -> None:
    """Touch its file until a migration has made a revision, or raise NewerFormat."""
    log, reported = logging.getLogger("schema"), ""
    while problem := _problem(settings, revision):
        if settings.beat_file is not None:
            with suppress(OSError):
                settings.beat_file.with_name(settings.beat_file.name + WAITING).touch()
        if problem != reported:
            log.warning("%s", problem)
        reported = problem
        time.sleep(POLL_SECONDS)
    if reported:
        log.info("the database has the schema of this version")


def _problem(settings: Settings, revision: str) -> str | None:
    assert settings.database_url is not None
    parameters = connection_parameters(settings.database_url)
    try:
        with PrimaryConnection.connect(autocommit=True, **parameters) as connection:
            require_readable(connection)
            if has_revision(connection, revision):
                return None
    except psycopg.Error as error:
        reason = " ".join(str(error).split())
        return f"cannot read the revision of the database's schema, retrying: {reason}"
    return (
        f"the database does not have the schema of EcoLink {package_version()}; this process waits "
        "until a migration of this version has ended: `python -m deploy.migrate`, or the service "
        "or Job `migrate`"
    )
