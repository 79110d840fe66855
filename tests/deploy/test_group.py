"""A process with several roles."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy import restarts
from deploy.bus_access import BUS_ACCESS
from deploy.database_roles import ACCESS, role_of
from deploy.local.errors import StackError
from deploy.local.home import Home
from deploy.local.plan import make_plan
from deploy.processes import (
    GROUPS,
    PROCESSES,
    environment,
    grouped,
    settings_from,
    shared_variables,
    variables_of,
)
from infrastructure.artifacts.object_stores import own_keys
from infrastructure.postgres import leadership
from infrastructure.postgres.presence import running_processes
from infrastructure.postgres.store import connect
from infrastructure.process import progress
from infrastructure.process.log_format import JsonLine, OneLine
from infrastructure.process.role import Role, enter, inherit_roles
from infrastructure.settings import Settings
from tests.deploy.roles import (
    FAILING,
    FAILING_LEADER,
    GRACEFUL,
    HANGING,
    LOSING,
    STEADY,
    STEADY_LEADER,
)
from tests.polling import eventually


@contextmanager
def group(settings: Settings, status: int = 0, /, **roles: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process with some roles until the end of the block. It must end with the status."""
    command = [sys.executable, "-P", "-m", "deploy.run", *(f"{k}={v}" for k, v in roles.items())]
    log = settings.home / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env=os.environ | environment(settings), stderr=file, text=True
        )
    try:
        yield process
        process.terminate()
        assert process.wait(60) == status, log.read_text()
    finally:
        process.kill()
        process.wait()


def starts(settings: Settings, work: str) -> int:
    file = settings.home / f"{work}.starts"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_a_role_that_fails_starts_again_while_its_neighbour_works(home: Path) -> None:
    settings = Settings(home=home)
    count = home / "count"
    with group(settings, relay=FAILING, projector=STEADY) as process:
        eventually(lambda: starts(settings, "failing") >= 3)
        eventually(count.exists)
        before = int(count.read_text() or 0)
        eventually(lambda: int(count.read_text() or 0) > before)
        assert process.poll() is None
    assert starts(settings, "steady") == 1
    lines = (home / "log").read_text().splitlines()
    failed = [line for line in lines if "CRITICAL relay/deploy.run: relay failed" in line]
    assert "RuntimeError: this role always fails" in failed[0]
    assert any("projector/deploy.run: projector ended" in line for line in lines)
    assert lines[-1].endswith("deploy.run: log ended")


@pytest.mark.parametrize(
    ("ending", "status"), [(HANGING, progress.EXIT_CODE), (LOSING, leadership.EXIT_CODE)]
)
def test_a_role_that_ends_the_process_lets_its_neighbour_stop(
    home: Path, ending: str, status: int
) -> None:
    settings = Settings(home=home, step_seconds=1.0)
    with group(settings, status, relay=ending, projector=GRACEFUL) as process:
        process.wait(60)
    assert (home / "done").exists()


@pytest.mark.full
def test_a_role_that_keeps_failing_leaves_nothing_behind(settings: Settings) -> None:
    left = settings.home / "left"
    with group(settings, relay=FAILING_LEADER, projector=STEADY_LEADER) as process:
        eventually(lambda: starts(settings, "steady") == 1)
        with connect(settings) as connection:
            running = [
                each for each in running_processes(connection) if each.service == "projector"
            ]
        assert [each.pid for each in running] == [process.pid]
        eventually(lambda: starts(settings, "failing") >= 5)
    threads, sessions = zip(*(map(int, each.split()) for each in left.open()), strict=True)
    assert threads[-1] <= threads[1] + 2
    assert sessions[-1] <= sessions[1] + 2
    with connect(settings) as connection:
        assert running_processes(connection) == []


@pytest.mark.full
def test_sigterm_ends_a_role_that_waits_for_the_lead(settings: Settings) -> None:
    with group(settings, projector=STEADY_LEADER, relay=FAILING):
        eventually(lambda: starts(settings, "steady") == 1)
        standby = settings.model_copy(update={"home": settings.home / "standby"})
        standby.home.mkdir()
        with group(standby, projector=STEADY_LEADER, relay=FAILING):
            log = standby.home / "log"
            eventually(lambda: "another projector process leads" in log.read_text())
        assert starts(standby, "steady") == 0


@pytest.mark.full
def test_the_last_role_of_a_process_gets_its_own_variables(home: Path) -> None:
    own = home / "own"
    own.mkdir()
    variables = {"RELAY__ECOLINK_HOME": str(own), "PROJECTOR__ECOLINK_HOME": str(home)}
    command = [sys.executable, "-P", "-m", "deploy.run", f"relay={FAILING}"]
    ended = subprocess.run(command, env=os.environ | variables, capture_output=True, check=False)
    assert ended.returncode == 1
    assert (own / "failing.starts").exists()


@pytest.mark.full
@pytest.mark.parametrize("names", [("billing", "relay"), ("log", "billing"), ("nonesuch",)])
def test_roles_of_different_processes_are_refused(names: tuple[str, ...]) -> None:
    command = [sys.executable, "-P", "-m", "deploy.run", *names]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2


def test_at_most_eight_processes_run_by_default() -> None:
    found = grouped(PROCESSES, ())
    assert len(found) <= 8
    assert sorted(role for roles in found.values() for role in roles) == sorted(PROCESSES)
    assert {role for roles in GROUPS.values() for role in roles} <= set(PROCESSES)
    assert not set(GROUPS) & set(PROCESSES)


@pytest.mark.full
@pytest.mark.parametrize("role", PROCESSES)
def test_one_setting_gives_a_role_a_process_of_its_own(role: str, tmp_path: Path) -> None:
    plan = make_plan(Home(tmp_path), Settings(home=tmp_path, separate_roles=role), PROCESSES)
    (program,) = [each for each in plan.services if role in each.roles]
    assert (program.name, program.roles) == (role, (role,))


def test_one_setting_gives_every_role_a_process_of_its_own(tmp_path: Path) -> None:
    plan = make_plan(Home(tmp_path), Settings(home=tmp_path, separate_roles="all"), PROCESSES)
    assert [each.name for each in plan.services] == list(PROCESSES)


def test_an_unknown_role_in_the_setting_is_refused(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, separate_roles="projector,nonesuch")
    with pytest.raises(StackError, match="'nonesuch'"):
        make_plan(Home(tmp_path), settings, PROCESSES)


def test_a_process_has_only_the_secrets_of_its_roles(tmp_path: Path) -> None:
    home = Home(tmp_path)
    settings = Settings(home=tmp_path)
    passwords = home.passwords()
    plan = make_plan(home, settings, PROCESSES)
    for program in plan.services:
        text = "\n".join(program.environment.values())
        for role in PROCESSES:
            has = role in program.roles
            assert (passwords.database_roles[role_of(role)] in text) is has
            assert (f"{role}.creds" in text) is (has and role in BUS_ACCESS)
        assert (passwords.snapshots in text) is any(
            ACCESS[each].reads_snapshots for each in program.roles
        )
        assert (passwords.nats.trainers in text) is ("scheduler" in program.roles)


def test_a_role_sees_only_its_own_secrets(tmp_path: Path) -> None:
    home = Home(tmp_path)
    settings = Settings(home=tmp_path)
    for program in make_plan(home, settings, PROCESSES).services:
        for role in program.roles:
            own = settings_from(variables_of(role, program.environment))
            assert f"//{role_of(role)}:" in str(own.database_url)
            assert (own.snapshot_secret is not None) is ACCESS[role].reads_snapshots
            credentials = home.nats_credentials(role) if role in BUS_ACCESS else None
            assert own.nats_credentials == credentials


def test_variables_of_a_role_come_back_from_those_of_its_process() -> None:
    own: Mapping[str, Mapping[str, str]] = {
        "relay": {"A": "same", "B": "1"},
        "projector": {"A": "same", "B": "2", "C": "3"},
    }
    shared = shared_variables(own)
    assert shared == {"A": "same", "RELAY__B": "1", "PROJECTOR__B": "2", "PROJECTOR__C": "3"}
    assert {role: variables_of(role, shared) for role in own} == own


def in_role(role: Role) -> dict[str, object]:
    """Return what a thread finds that a thread of the role has started."""
    found: dict[str, object] = {}
    record = logging.LogRecord("bus", logging.INFO, "a.py", 1, "text", (), None)

    def look() -> None:
        found["keys"] = own_keys()
        found["line"] = OneLine().format(record)
        found["json"] = json.loads(JsonLine("log").format(record))

    def begin() -> None:
        enter(role)
        started = threading.Thread(target=look)
        started.start()
        started.join()

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    return found


def test_threads_of_a_role_have_its_name_and_its_keys_of_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threading.Thread, "start", threading.Thread.start)
    inherit_roles()
    for name in ("relay", "projector"):
        variables = {
            "RELAY__AWS_ACCESS_KEY_ID": "relay",
            "PROJECTOR__AWS_ACCESS_KEY_ID": "projector",
            "AWS_SESSION_TOKEN": "shared",
        }
        found = in_role(Role(name, variables_of(name, variables)))
        assert found["keys"] == {"access_key_id": name, "session_token": "shared"}
        assert f"INFO {name}/bus: text" in str(found["line"])
        assert found["json"]["process"] == name  # type: ignore[index]


def test_the_backoff_doubles_up_to_a_limit() -> None:
    assert [restarts.backoff_seconds(each) for each in (1, 2, 3, 100)] == [0.2, 0.4, 0.8, 10.0]
    assert restarts.failures_after(restarts.STEADY_SECONDS, 7) == 1
    assert restarts.failures_after(0.0, 7) == 8
