"""`ecolink doctor`: each problem has a text with its fix."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from deploy.operator.doctor import all_checks
from infrastructure.artifacts.store import Artifacts
from infrastructure.checks import machine as machine_checks
from infrastructure.checks.machine import Check, Level
from infrastructure.postgres.log_identity import set_held
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from infrastructure.training import store_credentials
from tests.deploy.operator.command_line import ecolink
from tests.object_store import ROLE


def checks(settings: Settings, name: str) -> list[Check]:
    return [each for each in all_checks(settings) if each.name == name]


def only(settings: Settings, name: str) -> Check:
    (found,) = checks(settings, name)
    return found


def test_nothing_fails_on_a_running_installation(settings: Settings) -> None:
    found = list(all_checks(settings))
    assert [each for each in found if each.level is Level.FAILED] == []
    names = {each.name for each in found}
    assert {"python", "packages", "disk", "postgresql", "clock", "nats", "artifacts"} <= names


@pytest.mark.full
def test_servers_that_do_not_answer_fail_with_their_setting(settings: Settings) -> None:
    wrong = settings.model_copy(
        update={
            "database_url": "postgresql://ecolink@127.0.0.1:1/none?connect_timeout=1",
            "nats_url": "nats://127.0.0.1:1",
        }
    )
    for name, setting in (("postgresql", "ECOLINK_DATABASE_URL"), ("nats", "ECOLINK_NATS_URL")):
        check = only(wrong, name)
        assert check.level is Level.FAILED
        assert setting in check.text


def test_too_few_connections_have_a_warning(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert only(settings, "postgresql").level is Level.OK
    monkeypatch.setattr(machine_checks, "LEAST_CONNECTIONS", 10**6)
    check = only(settings, "postgresql")
    assert check.level is Level.WARNING
    assert "max_connections" in check.text
    assert "1000000" in check.text


def test_a_restored_copy_has_a_warning_until_it_is_confirmed(settings: Settings) -> None:
    assert list(checks(settings, "restored copy")) == []
    with connect(settings) as store:
        set_held(store, True)
    assert only(settings, "restored copy").level is Level.WARNING


def test_a_used_port_fails_with_its_setting(tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        check = only(Settings(home=tmp_path, gateway_port=port), "ports")
    assert check.level is Level.FAILED
    assert f"127.0.0.1:{port}" in check.text
    assert "ECOLINK_GATEWAY_PORT" in check.text
    assert checks(Settings(home=tmp_path), "ports") == []


def test_a_secret_that_others_can_read_fails(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets.json"
    secrets.write_text("{}")
    secrets.chmod(0o644)
    check = only(Settings(home=tmp_path), "home")
    assert check.level is Level.FAILED
    assert str(secrets) in check.text
    assert "chmod" in check.text
    secrets.chmod(0o600)
    assert only(Settings(home=tmp_path), "home").level is Level.OK


def test_a_full_disk_fails(tmp_path: Path) -> None:
    check = only(Settings(home=tmp_path, disk_critical_bytes=10**15, disk_low_bytes=10**16), "disk")
    assert check.level is Level.FAILED
    assert "Free some space" in check.text


def test_an_artifact_store_that_cannot_be_written_fails(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("no folder")
    check = only(Settings(home=tmp_path, artifacts_url=f"file://{place}/x"), "artifacts")
    assert check.level in (Level.OK, Level.FAILED)
    place.unlink()
    (tmp_path / "store").mkdir()
    good = Settings(home=tmp_path, artifacts_url=f"file://{tmp_path}/store")
    assert only(good, "artifacts").level is Level.OK
    assert [each for each in (tmp_path / "store").rglob("*") if each.is_file()] == []


def test_an_object_store_passes_with_a_warning_about_its_rules(tmp_path: Path, s3_url: str) -> None:
    used = Settings(home=tmp_path, artifacts_url=s3_url)
    assert only(used, "artifacts") == Check("artifacts", Level.OK, s3_url)
    check = only(used, "bucket")
    assert check.level is Level.WARNING
    assert "unfinished uploads" in check.text


def test_the_role_of_trainers_is_tried(tmp_path: Path, s3_url: str) -> None:
    good = Settings(home=tmp_path, artifacts_url=s3_url, artifacts_role=ROLE)
    assert only(good, "trainer keys") == Check("trainer keys", Level.OK, ROLE)
    for role, words in (
        (None, "ECOLINK_ARTIFACTS_ROLE is not set"),
        (f"{ROLE}x", f"the role '{ROLE}x'"),
    ):
        check = only(good.model_copy(update={"artifacts_role": role}), "trainer keys")
        assert check.level is Level.FAILED
        assert words in check.text
    assert Artifacts(s3_url).list("") == []


def test_a_store_that_ignores_session_policies_fails(
    tmp_path: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
        }
    )
    monkeypatch.setattr(store_credentials, "session_policy", lambda *_: everything)
    check = only(Settings(home=tmp_path, artifacts_url=s3_url, artifacts_role=ROLE), "trainer keys")
    assert check.level is Level.FAILED
    assert "ignores session policies" in check.text


@pytest.mark.full
@pytest.mark.parametrize(
    ("variable", "wrong", "words"),
    [
        ("AWS_ACCESS_KEY_ID", "unknown", ("AWS_ACCESS_KEY_ID", "'unknown'")),
        ("AWS_SECRET_ACCESS_KEY", "wrong", ("AWS_SECRET_ACCESS_KEY", "'services-access'")),
        ("AWS_ACCESS_KEY_ID", None, ("AWS_ACCESS_KEY_ID is not set", "Set")),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1", ("AWS_ENDPOINT_URL", "127.0.0.1:1")),
        ("AWS_ENDPOINT_URL", "nowhere", ("AWS_ENDPOINT_URL", "nowhere")),
        ("ECOLINK_ARTIFACTS_URL", "s3://missing/x", ("ECOLINK_ARTIFACTS_URL", "'missing'")),
    ],
)
@pytest.mark.usefixtures("s3_url")
def test_a_wrong_object_store_fails_with_setting_value_and_fix(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    wrong: str | None,
    words: tuple[str, ...],
) -> None:
    monkeypatch.setenv("ECOLINK_ARTIFACTS_URL", "s3://artifacts/x")
    if wrong is None:
        monkeypatch.delenv(variable)
    else:
        monkeypatch.setenv(variable, wrong)
    check = only(Settings(home=tmp_path), "artifacts")
    assert check.level is Level.FAILED
    assert all(each in check.text for each in words), check.text
    assert "services-secret" not in check.text


def test_a_missing_package_of_the_trainer_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_checks, "TRAINING", ("torch", "no-such-package"))
    check = only(Settings(home=tmp_path), "training")
    assert check.level is Level.WARNING
    assert "no-such-package" in check.text


@pytest.mark.parametrize(
    ("requirement", "problem"),
    [
        ("no-such-package>=1", "no-such-package is not installed"),
        ("pydantic>=999", "is installed, but >=999 is needed"),
        ("pydantic>=2", None),
        ("no-such-package; extra == 'trainer'", None),
    ],
)
def test_requirements_are_compared(requirement: str, problem: str | None) -> None:
    found = machine_checks._unmet(requirement)
    assert found is None if problem is None else problem in (found or "")


def test_a_driver_that_fails_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVML: Driver/library version mismatch'\nexit 18\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    check = only(Settings(home=tmp_path), "gpu")
    assert check.level is Level.FAILED
    assert "version mismatch" in check.text
    program.write_text("#!/bin/sh\necho 'NVIDIA H100, 580.1, 81559 MiB'\n")
    assert "NVIDIA H100" in only(Settings(home=tmp_path), "gpu").text


def test_a_driver_that_hangs_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(machine_checks, "DRIVER_SECONDS", 0.2)
    check = only(Settings(home=tmp_path), "gpu")
    assert check.level is Level.FAILED
    assert "did not answer within 0.2 s" in check.text


@pytest.mark.usefixtures("settings")
def test_the_command_prints_all_checks() -> None:
    document = json.loads(ecolink("doctor", "--json"))
    assert all(set(each) == {"name", "level", "text"} for each in document)
    assert "EcoLink can run here" in ecolink("doctor")


def test_an_unusable_launcher_fails_with_its_setting(tmp_path: Path) -> None:
    check = only(Settings(home=tmp_path, launcher="abacus"), "launcher")
    assert check.level is Level.FAILED
    assert "ECOLINK_LAUNCHER is 'abacus'" in check.text
    assert checks(Settings(home=tmp_path), "launcher") == []
