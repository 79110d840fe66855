"""`ecolink upgrade` shows the versions of processes and finishes an upgrade."""

from __future__ import annotations

import pytest
from psycopg_pool import ConnectionPool

from deploy.migrate import migrate
from deploy.operator import upgrade as commands
from domain.catalog.catalog import Catalog
from domain.core.event_format import FORMAT
from infrastructure.postgres import format_in_use, presence, upgrade
from infrastructure.postgres.presence import Presence
from infrastructure.postgres.store import Connection, connect_to
from infrastructure.settings import Settings
from tests.deploy.operator.command_line import ecolink

NEXT = FORMAT + 1


def as_next_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run this process as the next version of EcoLink."""
    for module in (commands, format_in_use, presence, upgrade):
        monkeypatch.setattr(module, "FORMAT", NEXT)


def test_without_an_upgrade_there_is_nothing_to_finish(settings: Settings) -> None:
    assert "No process of EcoLink runs." in ecolink("upgrade", "status")
    Presence(settings, "relay").beat()
    assert "No upgrade is in progress." in ecolink("upgrade", "status")
    assert "Nothing to finish" in ecolink("upgrade", "finish")


def test_an_upgrade_is_finished_when_all_processes_are_upgraded(
    settings: Settings, pool: ConnectionPool[Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Presence(settings, "relay")
    process.beat()
    as_next_version(monkeypatch)
    assert "Some processes are older" in ecolink("upgrade", "status", exit_code=1)
    assert "relay" in ecolink("upgrade", "finish", exit_code=1)
    process.beat()
    shown = ecolink("upgrade", "status", exit_code=1)
    assert "Run `ecolink upgrade finish`" in " ".join(shown.split())  # the console wraps lines
    assert f"uses format {NEXT}" in ecolink("upgrade", "finish")
    assert "No upgrade is in progress." in ecolink("upgrade", "status")
    with pool.connection() as connection:
        raised = connection.execute("SELECT format, raised_by FROM event_formats").fetchall()
    assert raised[-1] == {"format": NEXT, "raised_by": "operator:host"}


def test_the_end_of_an_upgrade_adds_the_new_entries_of_the_catalog(
    settings: Settings, pool: ConnectionPool[Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = "SELECT FROM ecolink_events WHERE topic = 'GpuTypeOffered'"
    assert settings.owner_database_url is not None
    with connect_to(settings.owner_database_url) as owner:
        owner.execute("TRUNCATE ecolink_events")
    as_next_version(monkeypatch)
    monkeypatch.setattr(Catalog.GpuTypeOffered, "formats", {1: NEXT})
    migrate(settings)
    with pool.connection() as connection:
        assert connection.execute(counted).rowcount == 0
        ecolink("upgrade", "finish")
        assert connection.execute(counted).rowcount > 0


def test_an_older_command_refuses_a_newer_log(pool: ConnectionPool[Connection]) -> None:
    with pool.connection() as connection:
        connection.execute("INSERT INTO event_formats VALUES (%s, '9.0.0', 'test')", [NEXT])
    for command in (("upgrade", "status"), ("accounts", "list")):
        assert "Start EcoLink 9.0.0 or later" in ecolink(*command, exit_code=1)
