"""Creates every table and seeds the catalog, once, before any service runs."""

from __future__ import annotations

from uuid import uuid4

import psycopg
from psycopg import sql

from domain.aggregate import Cause, because
from domain.catalog import Catalog
from domain.event_log import EventLog
from domain.identity import CATALOG_ID
from domain.offers import Offers, shipped_offers
from infrastructure import drafts, idempotency, leadership, measurements, profiles, sessions
from infrastructure.clock import Clock, clock_of
from infrastructure.reaction import PARKED_DDL
from infrastructure.settings import Settings
from infrastructure.store import APP_ROLE, create_event_tables, open_log
from projections import PROJECTIONS
from projections.projection import POSITIONS_DDL, prepare

ADVISORY_LOCK = 0xEC0


def migrate(settings: Settings) -> None:
    """Bring the database to the present schema; idempotent, and alone under a lock."""
    url = settings.owner_database_url or settings.database_url
    assert url is not None
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
        create_event_tables(url)
        for ddl in (
            leadership.DDL,
            PARKED_DDL,
            POSITIONS_DDL,
            measurements.DDL,
            profiles.DDL,
            drafts.DDL,
            idempotency.DDL,
            sessions.DDL,
        ):
            connection.execute(ddl.encode())
        for projection in PROJECTIONS:
            prepare(connection, projection)
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
        with open_log(settings.model_copy(update={"database_url": url}), pool_size=1) as log:
            seed_catalog(log, clock_of(settings), shipped_offers())


def seed_catalog(log: EventLog, clock: Clock, offers: Offers) -> None:
    """Put into the catalog what it has never seen; an operator's changes stay."""

    def attempt() -> None:
        catalog = log.find(Catalog, CATALOG_ID) or Catalog.open()
        catalog.seed(offers)
        log.commit(catalog)

    with because(Cause("service:migrate", f"seed:{uuid4()}", clock.now())):
        log.retrying(attempt)


if __name__ == "__main__":
    migrate(Settings())
