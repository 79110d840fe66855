"""The migration, which creates all tables and streams before any service runs."""

from __future__ import annotations

import asyncio
import logging
import sys
from functools import partial
from uuid import uuid4

import psycopg
from nats.errors import Error as NatsError

import deploy.selection  # noqa: F401 - first
from deploy.database_roles import grant_access
from deploy.progress import RebuildProgress
from deploy.schema import REVISION, TABLES
from domain.catalog.catalog import Catalog
from domain.catalog.catalog_entries import Offers, shipped_offers
from domain.core.aggregate import Cause, because
from domain.core.errors import UpgradeUnfinished
from domain.core.event_format import NewerFormat
from domain.core.event_log import EventLog
from domain.core.identity import CATALOG_ID
from infrastructure.bus import streams as bus
from infrastructure.bus.service import provision_patiently
from infrastructure.bus.tls import UntrustedServer
from infrastructure.extensions import InvalidSetting, check_settings, unknown_variables
from infrastructure.extras import MissingExtra
from infrastructure.postgres import format_in_use, presence
from infrastructure.postgres.database_url import (
    OldServer,
    connection_parameters,
    connection_problem,
    require_supported,
)
from infrastructure.postgres.primary import PrimaryConnection
from infrastructure.postgres.schema_change import SchemaLocked, change_schema
from infrastructure.postgres.schema_revision import store_revision
from infrastructure.postgres.store import create_event_tables, open_log
from infrastructure.postgres.upgrade import finish_if_alone, newer_processes
from infrastructure.process.clock import Clock, clock_of
from infrastructure.process.secret_files import load_secret_files
from infrastructure.settings import Settings
from projections import PROJECTIONS
from projections.projection import is_prepared
from projections.rebuilding import rebuild

ADVISORY_LOCK = 0xEC0

MIGRATION = "service:migrate"
"""Actor of the events that the migration saves."""


SINGLE_MACHINE = "--single-machine"
"""Argument that finishes the upgrade after the migration if no process of EcoLink runs."""

FORCE = "--force"
"""Argument that migrates even if a newer version of EcoLink runs."""


def migrate(settings: Settings, *, single_machine: bool = False, force: bool = False) -> bool:
    """Upgrade the database to the current schema. Idempotent; a lock excludes other runs.

    On a `single_machine`, finish the upgrade if no process of EcoLink runs. Raise NewerFormat, and
    change nothing, if this version of EcoLink cannot read the format in use. Raise OldServer if
    PostgreSQL is too old. While a newer version runs, change nothing and return False, because this
    version works on its schema. With `force`, migrate anyway: each process states its version
    itself, and a compromised one may lie. Raise SchemaLocked if other transactions use the tables
    for too long.
    """
    check_settings(settings)
    for each in unknown_variables():
        logging.getLogger("migrate").warning("%s", each)
    url = settings.owner_database_url or settings.database_url
    assert url is not None
    parameters = connection_parameters(url)
    with PrimaryConnection.connect(autocommit=True, **parameters) as connection:
        require_supported(connection)
        connection.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
        format_in_use.require_readable(connection)
        if not force and (newer := newer_processes(connection)):
            # It would rebuild read models that these processes write and read.
            logging.getLogger("migrate").warning(
                "the schema stays as it is, because a newer version of EcoLink runs: %s. To go "
                "back to this version, stop these processes and migrate again. If they do not "
                "run, migrate with %s.",
                *("; ".join(map(str, newer)), FORCE),
            )
            return False
        create_event_tables(url)
        for ddl in TABLES:
            change_schema(connection, partial(connection.execute, ddl.encode()))
        format_in_use.begin_format(connection)
        with open_log(settings.model_copy(update={"database_url": url})) as log:
            changed = [each for each in PROJECTIONS if not is_prepared(connection, each)]
            if changed:
                rebuild(url, changed, RebuildProgress())
            change_schema(connection, partial(grant_access, connection))
            store_revision(connection, REVISION)
            if single_machine and finish_if_alone(connection, MIGRATION):
                presence.follow_format(log, connection)
            try:
                seed_catalog(log, clock_of(settings), shipped_offers())
            except UpgradeUnfinished:
                logging.getLogger("migrate").info(
                    "`ecolink upgrade finish` will add the new entries to the catalog"
                )
    return True


def seed_catalog(log: EventLog, clock: Clock, offers: Offers) -> None:
    """Add shipped entries that the catalog has never had. Keep an operator's changes."""

    def attempt() -> None:
        catalog = log.find(Catalog, CATALOG_ID) or Catalog.open()
        catalog.seed(offers)
        log.commit(catalog)

    with because(Cause(MIGRATION, f"seed:{uuid4()}", clock.now())):
        log.retrying(attempt)


def create_streams(settings: Settings) -> None:
    """Create or update the streams of the bus. Raise BusUnavailable if NATS does not do it."""

    async def create() -> None:
        client = await bus.connect(settings, connect_timeout=5, max_reconnect_attempts=5)
        try:
            js, copies = client.jetstream(), settings.nats_replicas
            await provision_patiently(partial(bus.provision, js, (), copies))
        finally:
            await client.close()

    try:
        asyncio.run(create())
    except (UntrustedServer, RuntimeError) as error:  # the message names the setting
        raise BusUnavailable(f"Cannot create the streams. {error}") from error
    except (NatsError, TimeoutError, OSError) as error:
        raise BusUnavailable(
            f"Cannot create the streams on NATS: {error or type(error).__name__}. Correct "
            "ECOLINK_NATS_URL and ECOLINK_NATS_CREDENTIALS, which must be those of `operator`."
        ) from error


class BusUnavailable(Exception):
    """NATS refuses the operator, or does not answer."""


def main() -> None:
    """Upgrade the database, and the bus if its address is known."""
    load_secret_files()
    settings = Settings()
    refusals = InvalidSetting, MissingExtra, NewerFormat, OldServer, SchemaLocked, BusUnavailable
    try:
        arguments = sys.argv[1:]
        migrated = migrate(
            settings, single_machine=SINGLE_MACHINE in arguments, force=FORCE in arguments
        )
        if migrated and settings.nats_url is not None:
            create_streams(settings)
    except refusals as error:
        sys.exit(str(error))
    except psycopg.OperationalError as error:
        sys.exit(f"PostgreSQL: {connection_problem(error)}")


if __name__ == "__main__":
    main()
