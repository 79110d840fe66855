"""`ecolink backup`: its commands from a backup to a verified restore, and its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy.processes import environment
from domain.core.event_log import EventLog
from infrastructure.postgres.log_identity import is_held
from infrastructure.postgres.store import connect, open_log
from infrastructure.settings import Settings
from tests.builders.history import History
from tests.conftest import own_database
from tests.deploy.operator.command_line import ecolink
from tests.deploy.operator.conftest import _configured  # noqa: F401


@pytest.fixture
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("backups"))  # not in the home


def test_a_backup_is_listed_verified_restored_and_pruned(
    log: EventLog,
    servers: Settings,
    target: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    History(log).open_account(5)
    assert "no keys" in ecolink("backup", "create", target)
    made = json.loads(ecolink("backup", "create", target, "--json"))
    listed = json.loads(ecolink("backup", "list", target, "--json"))
    assert [each["id"] for each in listed][-1] == made["id"]
    assert len(listed) == 2
    assert made["id"] in ecolink("backup", "verify", target)
    assert "Deleted 1 backups" in ecolink("backup", "prune", target, "--keep", "1")
    with own_database(servers, tmp_path / "elsewhere") as elsewhere:
        for name, value in environment(elsewhere).items():
            monkeypatch.setenv(name, value)
        output = ecolink("backup", "restore", target)
        assert f"Restored {made['events']:,} events" in output
        assert "nothing is proven" in output  # nothing was sealed
        with connect(elsewhere) as store:
            assert is_held(store)
            assert "confirm-restore" in output
            ecolink("backup", "confirm-restore")
            assert not is_held(store)
        with open_log(elsewhere) as restored:
            assert History(restored).account.balance_micros == 5
        assert "already has" in ecolink("backup", "restore", target, exit_code=1)


def test_a_damaged_backup_fails_its_verification(log: EventLog, target: str) -> None:
    History(log).open_account(5)
    ecolink("backup", "create", target)
    content = max(Path(target).glob("blobs/*/*"), key=lambda path: path.stat().st_size)
    content.write_bytes(b"changed")
    assert content.name in ecolink("backup", "verify", target, exit_code=1)


def test_a_target_in_the_home_is_refused(settings: Settings) -> None:
    inside = str(settings.home / "backups")
    assert "ECOLINK_HOME" in ecolink("backup", "create", inside, exit_code=1)


def test_a_target_that_cannot_be_written_is_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("other") / "file"
    file.touch()
    output = ecolink("backup", "create", str(file / "backups"), exit_code=1)
    assert f"{file}/backups: Not a directory. Choose a directory" in output


def test_a_home_with_data_is_not_replaced(
    target: str, settings: Settings, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    History(log).open_account(5)
    ecolink("backup", "create", target)
    monkeypatch.delenv("ECOLINK_DATABASE_URL")
    (settings.home / "notes").touch()
    assert "is not empty" in ecolink("backup", "restore", target, exit_code=1)


def test_two_points_in_time_are_refused(target: str) -> None:
    options = ("--until-event", "5", "--until", "2026-11-24")
    assert "not both" in ecolink("backup", "restore", target, *options, exit_code=2)


def test_a_target_without_a_backup_says_how_to_make_one(target: str) -> None:
    assert "ecolink backup create" in ecolink("backup", "restore", target, exit_code=1)
