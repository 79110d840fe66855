"""The migration runs while services work, and never blocks them for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest

import deploy.migrate
from deploy.docker.migrate import NotPrepared, prepare
from deploy.migrate import migrate
from domain.core.event_format import FORMAT
from domain.core.event_log import EventLog
from infrastructure.postgres import schema_change
from infrastructure.postgres.schema_change import SchemaLocked, change_schema
from infrastructure.postgres.store import connect, connect_to
from infrastructure.settings import Settings
from tests.conftest import empty_database
from tests.logs import grow, ids
from tests.polling import eventually


@contextmanager
def reading(settings: Settings, *tables: str) -> Iterator[None]:
    """Read tables in a transaction that stays open, as an audit or a backup does."""
    with connect(settings, autocommit=False) as reader:
        for table in tables:
            reader.execute(f"SELECT count(*) FROM {table}".encode())
        yield


@pytest.mark.full
@pytest.mark.parametrize("table", ["ecolink_events", "ecolink_tracking", "step_measurements"])
def test_a_migration_behind_a_long_reader_does_not_stop_writers(
    settings: Settings, log: EventLog, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[None] = []

    def pausing(seconds: float) -> None:
        attempts.append(None)
        time.sleep(0.05)

    clock = SimpleNamespace(sleep=pausing, monotonic=time.monotonic)
    monkeypatch.setattr(schema_change, "time", clock)
    with reading(settings, table):
        migrating = threading.Thread(target=migrate, args=(settings,))
        migrating.start()
        eventually(lambda: len(attempts) > 1)
        before = len(ids(log))
        grow(log, 5)
        assert len(ids(log)) > before
        assert migrating.is_alive()
    migrating.join(timeout=60)
    assert not migrating.is_alive()


def test_a_migration_gives_up_and_names_the_transactions_in_its_way(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_change, "PATIENCE_SECONDS", 2.0)
    with (
        reading(settings, "profiles"),
        connect(settings.model_copy(update={"database_url": settings.owner_database_url})) as owner,
    ):
        statement = b"ALTER TABLE profiles ADD COLUMN note text"
        with pytest.raises(SchemaLocked, match="PostgreSQL process"):
            change_schema(owner, lambda: owner.execute(statement))
    with connect(settings) as connection, pytest.raises(psycopg.errors.UndefinedColumn):
        connection.execute("SELECT note FROM profiles")


def test_a_change_in_a_deadlock_is_tried_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service reads a table and then writes it, while the change takes two locks on it."""
    monkeypatch.setattr(schema_change, "PAUSE_SECONDS", 0.0)
    met: list[type[Exception]] = []
    assert settings.owner_database_url is not None
    with (
        connect_to(settings.owner_database_url) as owner,
        connect_to(settings.owner_database_url) as service,
    ):

        def write() -> None:
            service.execute("UPDATE profiles SET name = name")
            service.execute("COMMIT")

        def change() -> None:
            owner.execute("LOCK profiles IN SHARE ROW EXCLUSIVE MODE")
            if not met:
                writing.start()
                eventually(lambda: waits(settings, service.info.backend_pid))
            try:
                owner.execute("ALTER TABLE profiles ADD COLUMN IF NOT EXISTS note text")
            except psycopg.Error as error:
                met.append(type(error))
                raise

        service.execute("BEGIN")
        service.execute("SELECT count(*) FROM profiles")
        writing = threading.Thread(target=write)
        change_schema(owner, change)
        writing.join()
    assert met[0] is psycopg.errors.DeadlockDetected


def waits(settings: Settings, process: int) -> bool:
    """Return True if a session waits for a lock."""
    query = "SELECT FROM pg_locks WHERE pid = %s AND NOT granted"
    with connect(settings) as connection:
        return connection.execute(query, [process]).rowcount > 0


def run_on_another_machine(settings: Settings, version: str, format: int) -> None:
    """Record a process."""
    assert settings.owner_database_url is not None
    with connect_to(settings.owner_database_url) as owner:
        owner.execute(
            "INSERT INTO processes VALUES ('gateway', 'other', 'other', 7, %s, %s, now())",
            [version, format],
        )


def changed(settings: Settings) -> bool:
    """Return True if a migration creates a table that is missing."""
    assert settings.owner_database_url is not None
    with connect_to(settings.owner_database_url) as owner:
        owner.execute("DROP TABLE IF EXISTS job_drafts")
        migrate(settings)
        return owner.execute("SELECT FROM pg_tables WHERE tablename = 'job_drafts'").rowcount > 0


@pytest.mark.parametrize(("version", "format"), [("99.0.0", FORMAT), ("0.0.9", FORMAT + 1)])
def test_a_migration_changes_nothing_while_a_newer_version_runs(
    settings: Settings, caplog: pytest.LogCaptureFixture, version: str, format: int
) -> None:
    run_on_another_machine(settings, version, format)
    assert not changed(settings)
    assert f"gateway {version} on other (process 7)" in caplog.text


def test_a_migration_changes_the_schema_while_older_versions_run(settings: Settings) -> None:
    run_on_another_machine(settings, "0.0.9", FORMAT)
    assert changed(settings)


def run_main(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Run the program of the migration. Return the settings for each creation of streams."""
    created: list[Settings] = []
    monkeypatch.setattr(deploy.migrate, "Settings", lambda: settings)
    monkeypatch.setattr(deploy.migrate, "create_streams", created.append)
    monkeypatch.setattr("sys.argv", ["migrate"])
    deploy.migrate.main()
    return created


def test_a_migration_leaves_the_streams_of_a_newer_version_alone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_bus = settings.model_copy(update={"nats_url": "nats://127.0.0.1:4222"})
    assert run_main(with_bus, monkeypatch) == [with_bus]
    run_on_another_machine(settings, "99.0.0", FORMAT)
    assert run_main(with_bus, monkeypatch) == []


def test_the_programs_say_which_transactions_are_in_the_way(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_change, "PATIENCE_SECONDS", 0.0)
    passwords = tmp_path / "roles.json"
    passwords.write_text("{}")
    with reading(settings, "ecolink_events"):
        with pytest.raises(SystemExit, match="Other transactions used tables"):
            run_main(settings, monkeypatch)
        with pytest.raises(NotPrepared, match="Other transactions used tables"):
            prepare(settings, passwords)


def test_a_new_database_has_no_processes(servers: Settings, tmp_path: Path) -> None:
    with empty_database(servers, tmp_path) as settings:
        migrate(settings)
        migrate(settings)
