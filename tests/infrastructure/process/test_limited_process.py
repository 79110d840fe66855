"""Processes with limits: exceeded limits and failures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from infrastructure.process.limited_process import (
    CpuTimeExceeded,
    Exceeded,
    LimitExceeded,
    Limits,
    ProcessFailed,
    TimedOut,
    cpu_limit,
    run,
)
from tests.polling import eventually

WORK = "tests.infrastructure.limited_work"
ROOT = Path(__file__).parents[3]
AMPLE = Limits(cpu_seconds=60, wall_seconds=600, memory_mib=256)
SHORT = Limits(cpu_seconds=1, wall_seconds=600, memory_mib=256)

START = f"""
from infrastructure.process.limited_process import Limits, run
run({WORK!r}, {{"do": "compute"}}, Limits(60, 600, 256), lambda p: print(p["pid"], flush=True))
"""


@pytest.fixture(autouse=True)
def tests_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_a_result_and_its_progress_arrive_and_no_secret_is_passed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ECOLINK_DATABASE_URL", "postgresql://secret")
    progress: list[dict[str, Any]] = []
    result = run(WORK, {"do": "report"}, AMPLE, progress.append)
    assert progress == [{"done": 1}, {"done": 2}]
    assert not [name for name in result["environment"] if name.startswith("ECOLINK")]
    assert not psutil.pid_exists(result["pid"])


@pytest.mark.parametrize(
    ("work", "limits", "exceeded"),
    [
        ("compute", SHORT, Exceeded.TIME),
        ("allocate", AMPLE, Exceeded.MEMORY),
        ("abort", AMPLE, Exceeded.MEMORY),
    ],
)
def test_what_reaches_a_limit_is_ended(work: str, limits: Limits, exceeded: Exceeded) -> None:
    with pytest.raises(LimitExceeded) as caught:
        run(WORK, {"do": work}, limits)
    assert caught.value.exceeded is exceeded


def test_what_ends_without_a_result_may_be_tried_again() -> None:
    with pytest.raises(ProcessFailed, match="no idea"):
        run(WORK, {"do": "unknown"}, AMPLE)
    with pytest.raises(TimedOut):
        run(WORK, {"do": "wait"}, Limits(60, 0.5, 256))


def test_a_process_ends_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", START], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_computing_is_interrupted_also_in_code_that_catches_all_errors() -> None:
    def stubborn() -> None:
        while True:
            try:
                sum(range(1000))
            except Exception:  # noqa: BLE001
                os.abort()

    with pytest.raises(CpuTimeExceeded), cpu_limit(0.1):
        stubborn()
    with cpu_limit(60):
        pass
    assert signal.getitimer(signal.ITIMER_PROF) == (0, 0)
