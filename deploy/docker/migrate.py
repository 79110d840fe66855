"""`python -m deploy.docker.migrate` prepares PostgreSQL, NATS and the artifact store, then ends.

It creates the roles of the services, upgrades the database, and creates the streams and the bucket.
It runs before the services start, and is safe to repeat.
"""

from __future__ import annotations

import json
import logging
import sys
from contextlib import suppress
from pathlib import Path

import psycopg

import deploy.selection  # noqa: F401 - first
from deploy.local import postgres
from deploy.migrate import FORCE, SINGLE_MACHINE, BusUnavailable, create_streams, migrate
from deploy.run import set_up_logging
from domain.core.event_format import NewerFormat
from infrastructure.artifacts.store import STORE_ERRORS, Artifacts
from infrastructure.checks.machine import Level, artifact_checks
from infrastructure.extensions import InvalidSetting
from infrastructure.extras import MissingExtra
from infrastructure.postgres.database_url import OldServer
from infrastructure.postgres.schema_change import SchemaLocked
from infrastructure.process.secret_files import load_secret_files
from infrastructure.settings import Settings

CREATED = "migrated"
"""An empty file in the bucket, which the first migration creates."""

log = logging.getLogger("migrate")


class NotPrepared(Exception):
    """A server refuses what the migration needs. The message says what to do."""


def prepare(
    settings: Settings, role_passwords: Path, *, single_machine: bool = False, force: bool = False
) -> None:
    """Create the roles, upgrade the database, and create the streams and the bucket.

    `role_passwords` is a JSON file with the password of each database role. On a `single_machine`,
    finish the upgrade if no process of EcoLink runs. With `force`, upgrade the database even if a
    newer version runs. Raise NotPrepared.
    """
    assert settings.owner_database_url is not None
    try:
        postgres.provision(settings.owner_database_url, json.loads(role_passwords.read_text()))
        migrated = migrate(settings, single_machine=single_machine, force=force)
    except (InvalidSetting, MissingExtra, NewerFormat, OldServer, SchemaLocked) as error:
        raise NotPrepared(str(error)) from error
    except psycopg.OperationalError as error:
        reason = " ".join(str(error).split())
        raise NotPrepared(f"PostgreSQL does not answer as its owner: {reason}") from error
    try:
        if migrated:
            create_streams(settings)
    except BusUnavailable as error:
        raise NotPrepared(str(error)) from error
    with suppress(*STORE_ERRORS):  # explained by the check
        Artifacts(settings.artifacts).put(CREATED, b"")  # SeaweedFS creates the bucket
    for check in artifact_checks(settings):
        if check.level is Level.FAILED:
            raise NotPrepared(check.text)


def main() -> None:
    """Prepare the servers. Exit with 1 if that fails; the container engine then repeats it."""
    load_secret_files()
    settings = Settings()
    set_up_logging(settings, "migrate")
    try:
        passwords, *options = sys.argv[1:]
        single_machine, force = (each in options for each in (SINGLE_MACHINE, FORCE))
        prepare(settings, Path(passwords), single_machine=single_machine, force=force)
    except NotPrepared as error:
        log.error("%s", error)
        sys.exit(1)
    log.info("the database, the bus and the artifact store are ready")


if __name__ == "__main__":
    main()
