"""Frozen processes, endless steps of work and silent servers are restarted."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from deploy.local import stack
from deploy.local.child import Child, Program
from deploy.local.hang_detection import PROBE_SECONDS, Heartbeat, Probe, Silence
from deploy.local.state import ChildState
from infrastructure.process.progress import EXIT_CODE, MAX_GAP_SECONDS, Progress
from infrastructure.settings import Settings
from tests.deploy.local.fakes import LOOPING, STEADY
from tests.deploy.local.test_child import SLEEP, reached, stop
from tests.deploy.local.test_supervisor import child, restarted, shown
from tests.polling import eventually


def supervisor_log(home: Path) -> str:
    return (home / "logs" / "supervisor.log").read_text()


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("one", "no heartbeat"),
        ("postgres", "no response to connections"),
        ("nats", "no response to PING"),
    ],
)
def test_a_frozen_process_is_restarted_and_the_reason_is_logged(
    home: Path, name: str, why: str
) -> None:
    with stack.up(Settings(home=home, hung_seconds=10), {"one": STEADY, "two": STEADY}):
        before = {each.name: each.pid for each in shown(home).children}
        frozen = child(home, name).process
        assert frozen is not None
        if name != "one":
            time.sleep(2 * PROBE_SECONDS + 5)  # a probe is ignored before its first answer
        frozen.send_signal(signal.SIGSTOP)
        eventually(restarted(home, name))
        assert child(home, name).pid != before[name]
        assert child(home, "two").pid == before["two"]
    assert f"{name} hangs ({why} for" in supervisor_log(home)


@pytest.mark.full
def test_a_process_with_an_endless_step_ends_itself(home: Path) -> None:
    with stack.up(Settings(home=home, step_seconds=2.0), {"one": LOOPING}):
        eventually(lambda: child(home, "one").restarts >= 1)
    said = (home / "logs" / "one.log").read_text()
    assert "stuck hangs for" in said
    assert "in looping" in said or "lambda" in said, "where it hangs"
    assert f"one ended with status {EXIT_CODE}" in supervisor_log(home)


def test_a_child_without_a_heartbeat_is_killed(tmp_path: Path) -> None:
    check = Heartbeat(tmp_path / "beat", max_seconds=0.2)
    sleeper = Child(Program("sleep", SLEEP, checks=(check,)), tmp_path / "log")
    sleeper.start()
    eventually(reached(sleeper, ChildState.BACKOFF))
    assert sleeper.exit_code == -signal.SIGKILL
    stop(sleeper)


def test_a_probe_is_ignored_before_its_first_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("deploy.local.hang_detection.time.monotonic", lambda: now[0])
    answers = [False, False, True, False, False]
    probe = Probe("no answer", 1.5, lambda: answers.pop(0))
    silence = Silence(probe)
    heard = []
    while answers:
        probe.ask()
        now[0] += 1.0
        heard.append(silence.look())
    assert heard == [0.0, 0.0, 0.0, 1.0, 2.0]
    assert heard[-1] > probe.max_seconds
    assert Silence(probe).look() == 0.0, "of the next start"


def test_a_frozen_supervisor_blames_no_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("deploy.local.hang_detection.time.monotonic", lambda: now[0])
    silence = Silence(Heartbeat(tmp_path / "beat", max_seconds=60.0))
    silence.look()
    now[0] += 3600.0
    assert silence.look() == MAX_GAP_SECONDS


def test_a_step_may_take_up_to_its_limit() -> None:
    progress = Progress(step_seconds=15.0)
    with progress.step("quick"):
        assert progress.overdue(9.0) is None
    with progress.step("slow"):
        assert progress.overdue(9.0) is None
        late = progress.overdue(9.0)
        assert late is not None
        assert late.name == "slow"
    assert progress.overdue(9.0) is None
