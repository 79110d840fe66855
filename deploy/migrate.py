"""The migration, which creates all tables and seeds the catalog before any service runs."""

from __future__ import annotations

from functools import partial
from uuid import uuid4

import psycopg

from deploy.database_roles import grant_access
from deploy.progress import RebuildProgress
from domain.catalog.catalog import Catalog
from domain.catalog.catalog_entries import Offers, shipped_offers
from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from domain.core.identity import CATALOG_ID
from infrastructure import (
    alerts,
    drafts,
    event_recorder,
    idempotency,
    invoice_requests,
    key_uses,
    leadership,
    log_identity,
    measurements,
    notices,
    profiles,
    security_log,
    sessions,
    verifications,
    webhook_deliveries,
    webhook_endpoints,
)
from infrastructure.clock import Clock, clock_of
from infrastructure.database_url import connection_parameters
from infrastructure.event_handlers import PARKED_DDL
from infrastructure.schema_change import change_schema
from infrastructure.secret_files import load_secret_files
from infrastructure.settings import Settings
from infrastructure.store import create_event_tables, open_log
from projections import PROJECTIONS
from projections.projection import POSITIONS_DDL, is_prepared
from projections.rebuilding import rebuild

ADVISORY_LOCK = 0xEC0


def migrate(settings: Settings) -> None:
    """Upgrade the database to the current schema. Idempotent; a lock excludes other runs."""
    url = settings.owner_database_url or settings.database_url
    assert url is not None
    with psycopg.connect(autocommit=True, **connection_parameters(url)) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
        create_event_tables(url)
        for ddl in (
            leadership.DDL,
            event_recorder.DDL,
            log_identity.DDL,
            PARKED_DDL,
            POSITIONS_DDL,
            measurements.DDL,
            profiles.DDL,
            drafts.DDL,
            idempotency.DDL,
            sessions.DDL,
            key_uses.DDL,
            security_log.DDL,
            verifications.DDL,
            invoice_requests.DDL,
            notices.DDL,
            webhook_endpoints.DDL,
            webhook_deliveries.DDL,
            alerts.DDL,
        ):
            change_schema(connection, partial(connection.execute, ddl.encode()))
        with open_log(settings.model_copy(update={"database_url": url}), pool_size=1) as log:
            for projection in PROJECTIONS:
                if not is_prepared(connection, projection):
                    rebuild(url, projection, log, RebuildProgress())
            change_schema(connection, partial(grant_access, connection))
            seed_catalog(log, clock_of(settings), shipped_offers())


def seed_catalog(log: EventLog, clock: Clock, offers: Offers) -> None:
    """Add shipped entries that the catalog has never had. Keep an operator's changes."""

    def attempt() -> None:
        catalog = log.find(Catalog, CATALOG_ID) or Catalog.open()
        catalog.seed(offers)
        log.commit(catalog)

    with because(Cause("service:migrate", f"seed:{uuid4()}", clock.now())):
        log.retrying(attempt)


if __name__ == "__main__":
    load_secret_files()
    migrate(Settings())
