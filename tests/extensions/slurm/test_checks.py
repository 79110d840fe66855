"""The checks of `ecolink doctor`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from pwd import getpwuid
from typing import Any

import pytest
import typer

from deploy.local.home import Home
from deploy.local.stack import running
from deploy.local.state import StackPhase, StackState
from deploy.operator.doctor import doctor
from extensions.slurm.checks import slurm_checks
from extensions.slurm.settings import SlurmSettings
from infrastructure.checks.machine import Check, Level
from infrastructure.process.liveness import birth
from infrastructure.settings import Settings
from services.scheduler.launchers.registry import launcher_checks
from tests.extensions.slurm.fake import FakeSlurm, fake_slurm
from tests.extensions.slurm.rows import slurm_settings


@pytest.fixture
def on_slurm(tmp_path: Path) -> Iterator[tuple[FakeSlurm, SlurmSettings]]:
    """A cluster, and settings of a scheduler that uses it."""
    with fake_slurm(tmp_path) as slurm:
        given = slurm_settings(slurm)
        given |= {"home": tmp_path / "home", "trainer_nats_url": "nats://10.0.0.5:4222"}
        given["slurm_user"] = getpwuid(os.geteuid()).pw_name
        yield slurm, SlurmSettings(**given)


def slurm_check(settings: SlurmSettings, name: str = "slurm", **changes: Any) -> Check:
    changed = settings.model_copy(update=changes)
    (found,) = (each for each in slurm_checks(changed) if each.name == name)
    return found


def test_a_cluster_is_checked_if_the_launcher_uses_it(
    on_slurm: tuple[FakeSlurm, SlurmSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm, settings = on_slurm
    monkeypatch.setattr("tests.extensions.slurm.fake.USER", settings.slurm_user)
    assert list(launcher_checks(settings.model_copy(update={"launcher": "local"}))) == []
    assert [each for each in slurm_checks(settings) if each.level is Level.FAILED] == []
    assert "2 usable nodes with 4 GPUs" in slurm_check(settings).text
    slurm.nodes = "nodes_down"
    assert "1 usable nodes with 2 GPUs" in slurm_check(settings).text
    slurm.token = "another"
    assert "scontrol token" in slurm_check(settings).text


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "changes", "fix"),
    [
        ("slurm", {"slurm_url": None}, "ECOLINK_SLURM_URL is not set"),
        ("slurm", {"slurm_url": "http://127.0.0.1:1"}, "does not answer"),
        ("slurm", {"slurm_regions": {"local": "none"}}, "Change ECOLINK_SLURM_REGIONS"),
        ("slurm directory", {"slurm_directory": Path("/nowhere")}, "Mount it"),
        ("slurm user", {"slurm_user": "daemon"}, "Run the scheduler as daemon"),
        ("slurm network", {"trainer_nats_url": None}, "Set ECOLINK_TRAINER_NATS_URL"),
        ("slurm network", {"trainer_nats_url": "nats://[::1]:4222"}, "Nodes cannot reach"),
        ("slurm token", {"slurm_token_file": Path("/nowhere")}, "Cannot read /nowhere"),
    ],
)
def test_a_wrong_setting_of_a_cluster_has_a_fix(
    on_slurm: tuple[FakeSlurm, SlurmSettings],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    changes: dict[str, Any],
    fix: str,
) -> None:
    monkeypatch.setattr("tests.extensions.slurm.fake.USER", on_slurm[1].slurm_user)
    check = slurm_check(on_slurm[1], name, **changes)
    assert check.level is Level.FAILED
    assert fix in check.text


def test_a_token_that_others_can_read_fails(on_slurm: tuple[FakeSlurm, SlurmSettings]) -> None:
    slurm, settings = on_slurm
    slurm.token_file.chmod(0o644)
    check = slurm_check(settings, "slurm token")
    assert check.level is Level.FAILED
    assert f"chmod go= {slurm.token_file}" in check.text


def test_an_invalid_variable_of_a_cluster_fails(
    on_slurm: tuple[FakeSlurm, SlurmSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECOLINK_SLURM_CPUS_PER_GPU", "0")
    core = Settings(launcher="slurm", home=on_slurm[1].home)
    (check,) = launcher_checks(core)
    assert check.level is Level.FAILED
    assert "ECOLINK_SLURM_CPUS_PER_GPU" in check.text


def test_doctor_uses_the_variables_of_the_running_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path)
    home.prepare()
    StackState(
        pid=os.getpid(),
        born=birth(os.getpid()),
        phase=StackPhase.READY,
        since=datetime.now(UTC),
        settings=Settings(home=tmp_path, launcher="slurm"),
        variables={"ECOLINK_SLURM_URL": "http://127.0.0.1:1"},
    ).write(home)
    monkeypatch.setenv("ECOLINK_HOME", str(tmp_path))
    monkeypatch.setenv("ECOLINK_SLURM_URL", "")  # restored at the end
    monkeypatch.setattr(
        "deploy.operator.doctor.all_checks",
        lambda settings: launcher_checks(running(settings.home)),
    )
    with pytest.raises(typer.Exit):
        doctor(as_json=True)
    assert os.environ["ECOLINK_SLURM_URL"] == "http://127.0.0.1:1"
    assert "ECOLINK_SLURM_URL is not set" not in capsys.readouterr().out
