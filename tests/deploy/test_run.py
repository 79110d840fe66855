"""One process in the foreground: how it is found, and how it logs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from deploy.processes import PROCESSES, environment
from infrastructure.settings import Settings
from tests.deploy.fakes import CRASHING, STEADY
from tests.polling import eventually


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "deploy.run", *arguments]


def test_a_process_runs_until_it_is_told_to_stop(home: Path) -> None:
    settings = environment(Settings(home=home))
    process = subprocess.Popen(
        command("one", STEADY), env=os.environ | settings, stderr=subprocess.PIPE, text=True
    )
    eventually((home / "steady.env").exists)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 0
    line = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO deploy\.run: one starts"
    assert re.fullmatch(line, errors.splitlines()[0])


def test_an_error_that_ends_a_process_is_one_line_of_its_log(home: Path) -> None:
    settings = environment(Settings(home=home))
    result = subprocess.run(
        command("bad", CRASHING),
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    [_, last] = result.stderr.splitlines()
    assert "CRITICAL deploy.run: bad failed" in last
    assert "RuntimeError: this service always crashes" in last


def test_a_process_that_is_not_declared_is_refused() -> None:
    result = subprocess.run(command("nonesuch"), capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "there is no process 'nonesuch'" in result.stderr


def test_settings_survive_the_way_through_an_environment(home: Path) -> None:
    settings = Settings(home=home, nats_url="nats://somewhere", lease_seconds=7)
    variables = environment(settings)
    assert variables["ECOLINK_LEASE_SECONDS"] == "7"
    assert "ECOLINK_DATABASE_URL" not in variables


def test_every_process_is_declared_as_a_module_and_a_callable() -> None:
    for name, target in PROCESSES.items():
        assert re.fullmatch(rf"(services\.{name}|gateway)\.app:run", target)
