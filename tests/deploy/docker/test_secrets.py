"""The secrets of an installation in containers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from urllib.parse import urlparse

import pytest
from typer.testing import CliRunner

from deploy.artifact_access import ARTIFACT_ACCESS, STORED
from deploy.cli import main
from deploy.database_roles import OPERATOR_ROLE, role_of
from deploy.docker.secrets import KEYS, OPERATOR, Keys, prepare, secret_files
from deploy.local.errors import StackError
from deploy.local.nats import binary
from deploy.nats_accounts import USERS
from deploy.processes import PROCESSES
from infrastructure.extensions import signed_folders


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    prepare(tmp_path / "secrets")
    return tmp_path / "secrets"


def contents(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


def test_only_the_owner_can_enter_the_directory(directory: Path) -> None:
    assert directory.stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()}
    assert modes.pop(KEYS) == 0o600
    assert set(modes.values()) == {0o444}  # containers have other users


def test_secrets_are_made_once(directory: Path) -> None:
    before = contents(directory)
    prepare(directory)
    after = contents(directory)
    # JWTs have the time of their signature.
    signed = {"nats.conf", *(f"{user}.creds" for user in USERS)}
    assert {k: v for k, v in before.items() if k not in signed} == {
        k: v for k, v in after.items() if k not in signed
    }


def test_a_deleted_file_is_written_again_from_the_keys(directory: Path) -> None:
    before = (directory / "relay-database-url").read_text()
    (directory / "relay-database-url").unlink()
    prepare(directory)
    assert (directory / "relay-database-url").read_text() == before


def test_two_installations_have_no_secret_in_common(tmp_path: Path) -> None:
    one, two = dict(secret_files(Keys())), dict(secret_files(Keys()))
    public = {name for name in one if name.endswith("-s3-access-key")}
    assert {name for name in one if one[name] == two[name]} == public


def test_each_process_logs_in_with_its_own_role(directory: Path) -> None:
    passwords = json.loads((directory / "database-roles.json").read_text())
    for service in (*PROCESSES, OPERATOR):
        url = urlparse((directory / f"{service}-database-url").read_text())
        role = OPERATOR_ROLE if service == OPERATOR else role_of(service)
        assert (url.username, url.password) == (role, passwords[role])
        assert (url.hostname, url.path) == ("postgres", "/ecolink")
    assert len({passwords[role_of(service)] for service in PROCESSES}) == len(PROCESSES)


def test_nats_accepts_its_configuration(directory: Path) -> None:
    checked = subprocess.run(
        [binary(), "-t", "--config", directory / "nats.conf"], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr
    written = json.loads((directory / "nats.conf").read_text())
    assert written["http"].startswith("127.0.0.1:")  # it asks for no password


def test_each_service_has_a_key_for_its_own_folders(directory: Path) -> None:
    identities = {
        each["name"]: each for each in json.loads((directory / "s3.json").read_text())["identities"]
    }
    assert set(identities) == {*ARTIFACT_ACCESS, OPERATOR}
    assert identities[OPERATOR]["actions"] == ["Admin"]
    assert "Write:ecolink/seals/*" in identities["sealer"]["actions"]
    for service, access in ARTIFACT_ACCESS.items():
        actions = identities[service]["actions"]
        may = {action.partition(":")[0] + " " + action.split("/")[1] for action in actions}
        assert may == {f"Write {folder}" for folder in access.writes} | {
            f"{action} {folder}"
            for folder in (*access.reads, *access.writes)
            for action in ("Read", "List")
        }
        (pair,) = identities[service]["credentials"]
        assert pair["secretKey"] == (directory / f"{service}-s3-secret-key").read_text()


def test_rights_name_known_processes_and_folders() -> None:
    assert set(ARTIFACT_ACCESS) <= set(PROCESSES)
    for access in ARTIFACT_ACCESS.values():
        assert {*access.reads, *access.writes} <= set(STORED)
        assert not set(access.reads) & set(access.writes)
    changed_by = {
        folder: {name for name, access in ARTIFACT_ACCESS.items() if folder in access.writes}
        for folder in STORED
    }
    for folder in ("seals", *signed_folders()):
        assert changed_by[folder] == {"sealer"}


def test_damaged_keys_are_not_replaced(directory: Path) -> None:
    (directory / KEYS).write_text("{")
    with pytest.raises(StackError, match=r"keys\.json is damaged"):
        prepare(directory)
    assert (directory / KEYS).read_text() == "{"


def test_the_command_says_what_to_do_if_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(main, ["docker", "init", str(tmp_path / "file" / "secrets")])
    assert result.exit_code == 1
    assert "--user" in result.output


def test_the_command_writes_the_secrets(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["docker", "init", str(tmp_path / "new")])
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        KEYS,
        *dict(secret_files(Keys())),
    }
