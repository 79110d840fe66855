"""One child process: its states, its backoff, and its end."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from deploy import restarts
from deploy.local.child import Child, Program, tethered
from deploy.local.state import ChildState
from infrastructure.process.liveness import birth, lives, living
from tests.polling import eventually

SLEEP = ("/bin/sleep", "100")
DEAF = ("/bin/sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done")
FAMILY = ("/bin/sh", "-c", "sleep 100 & echo $!; wait")
FAILS = ("/bin/sh", "-c", "echo it broke; exit 3")


def reached(child: Child, state: ChildState) -> Callable[[], bool]:
    def condition() -> bool:
        child.tick()
        return child.state is state

    return condition


def stop(child: Child) -> None:
    child.terminate()
    eventually(reached(child, ChildState.STOPPED))


def test_a_child_runs_once_ready_and_stops_on_request(tmp_path: Path) -> None:
    answers = iter([False, False, True])
    child = Child(Program("sleep", SLEEP, ready=lambda: next(answers)), tmp_path / "log")
    child.start()
    assert child.status.process is not None
    assert not child.tick()
    assert child.state is ChildState.STARTING
    eventually(reached(child, ChildState.RUNNING))
    stop(child)
    assert child.exit_code == -signal.SIGTERM
    assert child.status.process is None


def test_backoff_doubles_up_to_a_limit_and_resets_after_a_steady_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = Child(Program("fails", FAILS), tmp_path / "log")
    pauses = []
    monkeypatch.setattr(restarts, "FIRST_SECONDS", 0.02)
    monkeypatch.setattr(restarts, "MOST_SECONDS", 0.08)
    for _ in range(4):
        child.start()
        eventually(reached(child, ChildState.BACKOFF))
        pauses.append(restarts.backoff_seconds(child.failures))
    assert pauses == [0.02, 0.04, 0.08, 0.08]
    assert child.exit_code == 3
    monkeypatch.setattr(restarts, "STEADY_SECONDS", 0.0)
    child.start()
    eventually(reached(child, ChildState.BACKOFF))
    assert restarts.backoff_seconds(child.failures) == 0.02
    eventually(lambda: child.tick() and child.restarts == 1)
    stop(child)
    assert child.tail(lines=1) == "it broke"


def test_a_one_time_program_is_not_restarted(tmp_path: Path) -> None:
    child = Child(Program("fails", FAILS, restarts=False), tmp_path / "log")
    child.start()
    eventually(reached(child, ChildState.STOPPED))
    assert child.exit_code == 3
    assert not child.alive


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    child = Child(Program("deaf", DEAF, stop_seconds=0.2), tmp_path / "log")
    child.start()
    eventually(lambda: "deaf" in child.tail())
    stop(child)
    assert child.exit_code == -signal.SIGKILL


def test_a_child_that_died_before_terminate_is_stopped(tmp_path: Path) -> None:
    child = Child(Program("sleep", SLEEP), tmp_path / "log")
    child.start()
    process = child.status.process
    assert process is not None
    process.kill()
    eventually(lambda: not lives(process))
    stop(child)
    assert child.exit_code == -signal.SIGKILL


def test_the_process_group_of_a_dead_child_is_killed(tmp_path: Path) -> None:
    child = Child(Program("family", FAMILY), tmp_path / "log")
    child.start()
    grandchild = psutil.Process(int(eventually(child.tail)))
    process = child.status.process
    assert process is not None
    process.kill()
    eventually(reached(child, ChildState.BACKOFF))
    eventually(lambda: not lives(grandchild))
    stop(child)


def test_a_tethered_program_ends_with_its_parent() -> None:
    script = (
        "import subprocess, signal; from deploy.local.child import tethered\n"
        f"print(subprocess.Popen(tethered({SLEEP!r})).pid, flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        process = psutil.Process(int(parent.stdout.readline()))
        assert lives(process)
        parent.kill()
    eventually(lambda: not lives(process))


def test_a_tethered_program_does_not_start_without_its_parent() -> None:
    command = tethered(("/bin/echo", "began"))
    command[command.index(str(psutil.Process().pid))] = "1"
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stdout == ""


def test_a_reused_process_id_is_another_process() -> None:
    own = psutil.Process().pid
    assert living(own, birth(own)) == psutil.Process()
    assert living(own, "00000000:1") is None
    assert living(None, None) is None
