"""The format in use, the running processes, and the end of an upgrade."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest

from deploy.migrate import migrate
from deploy.processes import environment
from domain.access.role import Role
from domain.billing.account import Account
from domain.catalog.catalog import Catalog
from domain.core.errors import UpgradeUnfinished, VersionConflict
from domain.core.event_format import FORMAT, NewerFormat
from domain.core.event_log import EventLog
from infrastructure.postgres import format_in_use, presence, upgrade
from infrastructure.postgres.presence import EXIT_CODE, Presence, present, running_processes
from infrastructure.postgres.store import Connection, connect_to, open_log, scalar
from infrastructure.postgres.upgrade import (
    OlderProcesses,
    finish,
    finish_if_alone,
    newer_processes,
    upgrade_status,
)
from infrastructure.process.machine import machine_id
from infrastructure.settings import Settings
from tests.builders.commands import command
from tests.polling import eventually

NEXT = FORMAT + 1


@pytest.fixture
def owner(settings: Settings) -> Iterator[Connection]:
    """A connection of the database's owner."""
    assert settings.owner_database_url is not None
    with connect_to(settings.owner_database_url) as connection:
        yield connection


def use_format(owner: Connection, format: int) -> None:
    owner.execute("INSERT INTO event_formats VALUES (%s, '9.0.0', 'test')", [format])


def as_next_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run this process as the next version of EcoLink, which adds AccountOpened."""
    for module in (format_in_use, presence, upgrade):
        monkeypatch.setattr(module, "FORMAT", NEXT)
    monkeypatch.setattr(Account.AccountOpened, "formats", {1: NEXT})


def run_older(owner: Connection, service: str = "billing", seconds_ago: int = 0) -> None:
    """Record a process of this version on another machine."""
    owner.execute(
        "INSERT INTO processes VALUES (%s, 'other', 'other', 7, '0.1.0', %s, now(), "
        "clock_timestamp() - make_interval(secs => %s))",
        [service, FORMAT, seconds_ago],
    )


def open_account(log: EventLog) -> None:
    account_id = uuid4()
    with command(str(account_id)):
        log.commit(Account.open(account_id, Role.OWNER, "UTC"))


def test_a_new_database_uses_the_format_of_the_code(owner: Connection, log: EventLog) -> None:
    assert format_in_use.format_in_use(owner) == log.format_in_use == FORMAT
    assert owner.execute("SELECT raised_by FROM event_formats").fetchall() == [
        {"raised_by": "service:migrate"}
    ]


def test_a_database_of_before_the_first_release_uses_format_1(
    owner: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner.execute("DROP TABLE event_formats")
    as_next_version(monkeypatch)
    migrate(settings)
    assert format_in_use.format_in_use(owner) == 1


def test_a_process_refuses_a_newer_format(owner: Connection, settings: Settings) -> None:
    use_format(owner, NEXT)
    with pytest.raises(NewerFormat, match=r"Start EcoLink 9\.0\.0 or later"):
        open_log(settings)
    with pytest.raises(NewerFormat), present(settings, "billing"):
        pass


def test_an_older_migration_leaves_a_newer_database_unchanged(
    owner: Connection, settings: Settings
) -> None:
    use_format(owner, NEXT)
    owner.execute("DROP FUNCTION process_ended")
    with pytest.raises(NewerFormat):
        migrate(settings)
    assert owner.execute("SELECT to_regproc('process_ended') AS found").fetchone() == {
        "found": None
    }


@pytest.mark.full
def test_the_program_of_a_service_says_which_version_it_needs(
    owner: Connection, settings: Settings
) -> None:
    use_format(owner, NEXT)
    ended = subprocess.run(
        [sys.executable, "-m", "deploy.run", "relay"],
        env=os.environ | environment(settings),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == EXIT_CODE
    assert "9.0.0 or later" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_running_process_notices_the_raised_format(
    owner: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_next_version(monkeypatch)
    monkeypatch.setattr(presence, "BEAT_SECONDS", 0.05)
    with present(settings, "gateway"), open_log(settings) as log:
        with pytest.raises(UpgradeUnfinished):
            open_account(log)
        assert finish(owner, "operator:host")
        eventually(lambda: log.format_in_use == NEXT)
        open_account(log)


def test_a_process_that_cannot_read_the_raised_format_exits(
    owner: Connection, settings: Settings
) -> None:
    """It freezes, the upgrade is finished meanwhile, and it continues."""
    process = Presence(settings, "gateway")
    process.beat()
    owner.execute("UPDATE processes SET seen = now() - interval '1 minute'")
    use_format(owner, NEXT)
    with pytest.raises(NewerFormat):
        process.beat()


def test_a_process_is_recorded_while_it_runs(owner: Connection, settings: Settings) -> None:
    with present(settings, "sealer"):
        (found,) = running_processes(owner)
        assert (found.service, found.pid, found.format) == ("sealer", os.getpid(), FORMAT)
    assert running_processes(owner) == []


def test_a_process_is_recorded_again_after_its_session_ended(
    owner: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "BEAT_SECONDS", 0.05)
    with present(settings, "sealer"):
        owner.execute("DELETE FROM processes")
        owner.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            "WHERE application_name = 'ecolink sealer' AND datname = current_database()"
        )
        eventually(lambda: running_processes(owner))


def test_a_process_starts_without_the_database_and_is_recorded_later(
    owner: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "BEAT_SECONDS", 0.05)
    owner.execute("ALTER FUNCTION process_ended RENAME TO ended")
    owner.execute("ALTER FUNCTION process_runs RENAME TO away")
    with present(settings, "sealer"):
        assert running_processes(owner) == []
        owner.execute("ALTER FUNCTION away RENAME TO process_runs")
        eventually(lambda: running_processes(owner))


def test_a_process_that_was_killed_is_forgotten(owner: Connection, settings: Settings) -> None:
    run_older(owner, "billing", seconds_ago=2 * 86_400)
    assert running_processes(owner) == []
    Presence(settings, "relay").beat()
    rows = owner.execute("SELECT service FROM processes").fetchall()
    assert rows == [{"service": "relay"}]


def test_the_upgrade_is_not_finished_while_an_older_process_runs(
    owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_older(owner)
    as_next_version(monkeypatch)
    with pytest.raises(OlderProcesses, match=r"billing 0\.1\.0 on other \(process 7\)"):
        finish(owner, "operator:host")
    status = upgrade_status(owner)
    assert (status.in_use, status.newest, status.unfinished) == (FORMAT, NEXT, True)
    assert [each.service for each in status.older] == ["billing"]
    owner.execute("UPDATE processes SET seen = seen - interval '31 s'")
    assert finish(owner, "operator:host")
    assert not upgrade_status(owner).unfinished
    assert not finish(owner, "operator:host")
    rows = owner.execute("SELECT format, raised_by FROM event_formats ORDER BY 1").fetchall()
    assert rows[-1] == {"format": NEXT, "raised_by": "operator:host"}


def test_an_older_program_sees_that_the_upgrade_is_not_finished(
    owner: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        as_next_version(patch)
        Presence(settings, "gateway").beat()
    run_older(owner)
    status = upgrade_status(owner)
    assert status.unfinished
    assert [each.service for each in status.older] == ["billing"]


def test_a_single_machine_finishes_when_it_starts(
    owner: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_next_version(monkeypatch)
    run_older(owner, seconds_ago=3600)  # its machine lost its power
    migrate(settings, single_machine=True)
    assert upgrade_status(owner).in_use == FORMAT
    owner.execute("DELETE FROM processes")
    migrate(settings)
    assert upgrade_status(owner).in_use == FORMAT
    migrate(settings, single_machine=True)
    assert upgrade_status(owner).in_use == NEXT


def test_a_killed_process_of_this_machine_does_not_count(
    owner: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    Presence(settings, "relay").beat()
    as_next_version(monkeypatch)
    assert not finish_if_alone(owner, "service:migrate")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    owner.execute("UPDATE processes SET pid = %s", [ended.pid])
    assert finish_if_alone(owner, "service:migrate")


def test_a_machine_with_the_same_name_counts(
    owner: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cloned machine has the same host name, but its process IDs mean nothing here."""
    Presence(settings, "relay").beat()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    owner.execute("UPDATE processes SET pid = %s, machine = 'clone'", [ended.pid])
    Presence(settings, "relay").beat()
    assert {each.machine for each in running_processes(owner)} == {"clone", machine_id()}
    owner.execute("DELETE FROM processes WHERE machine <> 'clone'")
    as_next_version(monkeypatch)
    assert not finish_if_alone(owner, "service:migrate")
    with pytest.raises(OlderProcesses):
        finish(owner, "operator:host")


@pytest.mark.parametrize(
    ("own", "running", "is_newer"),
    [
        ("1.2.0", "1.2.0rc1", False),
        ("1.2.0rc1", "1.2.0", True),
        ("1.2.0", "1.10.0", True),
        ("unknown", "1.2.0", False),
        ("1.2.0", "unknown", False),
    ],
)
def test_newer_processes_have_a_later_version(
    owner: Connection, monkeypatch: pytest.MonkeyPatch, own: str, running: str, is_newer: bool
) -> None:
    run_older(owner)
    owner.execute("UPDATE processes SET version = %s", [running])
    monkeypatch.setattr(upgrade, "package_version", lambda: own)
    assert bool(newer_processes(owner)) is is_newer


def test_a_newer_format_counts_even_if_the_version_is_unknown(owner: Connection) -> None:
    run_older(owner)
    owner.execute("UPDATE processes SET version = 'unknown', format = %s", [NEXT])
    assert newer_processes(owner)


def test_a_forced_migration_ignores_a_process_that_claims_a_newer_version(
    owner: Connection, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    run_older(owner, "gateway")
    owner.execute("UPDATE processes SET version = '999', format = 99")
    owner.execute("DROP FUNCTION process_ended")
    migrate(settings)
    assert "migrate with --force" in caplog.text
    assert scalar(owner, "SELECT to_regproc('process_ended')::text") is None
    migrate(settings, force=True)
    assert scalar(owner, "SELECT to_regproc('process_ended')::text") == "process_ended"


def test_an_unexpected_error_does_not_end_the_beats(
    owner: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "BEAT_SECONDS", 0.05)
    failed = threading.Event()

    def fail() -> str:
        failed.set()
        raise RuntimeError("the set changed its size")

    with present(settings, "sealer"):
        with monkeypatch.context() as patch:
            patch.setattr(presence, "package_version", fail)
            assert failed.wait(60)
        owner.execute("DELETE FROM processes")
        eventually(lambda: running_processes(owner))


def test_the_format_of_a_log_never_falls(owner: Connection, settings: Settings) -> None:
    with open_log(settings) as log:
        log.format_in_use = NEXT
        Presence(settings, "sealer").beat()
        assert log.format_in_use == NEXT


def test_a_migration_leaves_new_catalog_entries_to_the_one_after_the_upgrade(
    owner: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = "SELECT count(*) FROM ecolink_events WHERE topic = 'GpuTypeOffered'"
    owner.execute("TRUNCATE ecolink_events")
    as_next_version(monkeypatch)
    monkeypatch.setattr(Catalog.GpuTypeOffered, "formats", {1: NEXT})
    migrate(settings)
    assert scalar(owner, counted) == 0
    migrate(settings, single_machine=True)
    assert scalar(owner, counted) > 0


def test_events_of_a_process_that_wakes_after_the_end_are_readable(
    owner: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes only the older format, and its saves conflict with events that it has not read."""
    with open_log(settings) as frozen:
        account_id = UUID(int=77)
        with command("open"):
            frozen.commit(Account.open(account_id, Role.OWNER, "UTC"))
        account = frozen.load(Account, account_id)
        with monkeypatch.context() as patch:
            as_next_version(patch)
            assert finish(owner, "operator:host")
            with open_log(settings) as newer, command("newer"):
                same = newer.load(Account, account_id)
                same.grant_credit(1, "newer")
                newer.commit(same)
        assert frozen.format_in_use == FORMAT
        with command("late"):
            account.grant_credit(1, "late")
            with pytest.raises(VersionConflict):
                frozen.commit(account)
