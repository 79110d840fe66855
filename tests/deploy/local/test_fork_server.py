"""The fork server: what a forked program has, how it ends, and how it starts without the server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from infrastructure.process.liveness import lives
from tests.deploy.local.supervising import CONFIDENTIAL, MODULE
from tests.polling import eventually

SUPERVISOR = "tests.deploy.local.supervising"

CLEAN = """
import os
from importlib import import_module
from deploy.local.supervisor import _modules
from deploy.processes import PROCESSES
for module in _modules(PROCESSES):
    import_module(module)
handles = sorted(map(int, os.listdir("/proc/self/fd")))
assert handles == [0, 1, 2, 3], handles  # 3 lists the folder
assert len(os.listdir("/proc/self/task")) == 1, "a thread runs"
"""


def supervise(script: str, log: Path) -> str:
    command = [sys.executable, "-P", "-m", SUPERVISOR, script, str(log)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def facts(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def test_a_program_has_its_own_arguments_and_variables_and_no_secret(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert supervise("exit", log) == "3\n"
    (found,) = facts(log)
    assert found["arguments"] == ["3"]
    assert found["command"][1:] == ["-P", "-m", MODULE, "3"]
    assert found["variables"] == {"OWN": "1", "PATH": "/bin"}
    assert CONFIDENTIAL not in found["initial_variables"]
    assert found["leads_session"]
    assert found["threads"] == 1
    assert [each for each in found["handles"] if each > 3] == []  # 3 lists the folder


def test_a_signal_is_the_exit_code(tmp_path: Path) -> None:
    assert supervise("kill", tmp_path / "log") == f"{-signal.SIGTERM}\n"


def test_a_failed_program_is_restarted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    supervise("restart", log)
    assert "RuntimeError: it failed" in log.read_text()


def test_a_program_ends_with_its_supervisor(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", SUPERVISOR, "stay", str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        program = psutil.Process(int(supervisor.stdout.readline()))
        below = psutil.Process(supervisor.pid).children(recursive=True)
        assert program in below
        assert program.ppid() == supervisor.pid
        supervisor.kill()
    eventually(lambda: not any(lives(each) for each in below))


def test_programs_continue_and_start_without_the_server(tmp_path: Path) -> None:
    log = tmp_path / "log"
    supervise("without", log)
    first, second = facts(log)
    assert first["variables"].items() <= second["variables"].items()  # LC_CTYPE may be added
    assert first["command"] == second["command"]


def test_a_program_that_runs_earlier_code_says_so(tmp_path: Path) -> None:
    log = tmp_path / "log"
    supervise("edited", log)
    assert log.read_text().count("The source has changed") == 1


def test_the_modules_of_the_product_start_no_thread_and_open_no_socket() -> None:
    subprocess.run([sys.executable, "-P", "-c", CLEAN], check=True, timeout=120)
