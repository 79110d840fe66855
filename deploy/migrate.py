"""Creates every table, once, before any service runs."""

from __future__ import annotations

import psycopg
from psycopg import sql

from infrastructure import measurements, profiles
from infrastructure.reaction import PARKED_DDL
from infrastructure.settings import Settings
from infrastructure.store import APP_ROLE, create_event_tables
from projections import PROJECTIONS
from projections.projection import POSITIONS_DDL

ADVISORY_LOCK = 0xEC0


def migrate(settings: Settings) -> None:
    """Bring the database to the present schema; idempotent, and alone under a lock."""
    url = settings.owner_database_url or settings.database_url
    assert url is not None
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
        create_event_tables(url)
        for ddl in (
            PARKED_DDL,
            POSITIONS_DDL,
            measurements.DDL,
            profiles.DDL,
            *(projection.ddl for projection in PROJECTIONS),
        ):
            connection.execute(ddl.encode())
        tables = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' "
            "AND tablename NOT IN ('ecolink_events', 'ecolink_snapshots', 'ecolink_tracking')"
        ).fetchall()
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [APP_ROLE]).fetchone():
            connection.execute(
                sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {} TO {}").format(
                    sql.SQL(", ").join(sql.Identifier(table) for (table,) in tables),
                    sql.Identifier(APP_ROLE),
                )
            )


if __name__ == "__main__":
    migrate(Settings())
