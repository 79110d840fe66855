"""Run one process in the foreground, with its log."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.processes import GROUPS, PROCESSES, environment
from deploy.run import MOST_LINES, MOST_WARNINGS, WINDOW_SECONDS, Throttle
from infrastructure.extensions import SELECTION
from infrastructure.process.log_format import OneLine
from infrastructure.settings import Settings
from tests.deploy.local.fakes import CRASHING, HARD_TO_CANCEL, REQUESTING, STEADY
from tests.polling import eventually


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "deploy.run", *arguments]


@pytest.mark.full
def test_sigterm_ends_a_process_that_does_not_handle_it_yet(home: Path) -> None:
    settings = environment(Settings(home=home))
    process = subprocess.Popen(
        command(f"one={STEADY}"), env=os.environ | settings, stderr=subprocess.PIPE, text=True
    )
    eventually((home / "steady.env").exists)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 0
    line = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO deploy\.run: one starts"
    assert re.fullmatch(line, errors.splitlines()[0])


@pytest.mark.full
def test_sigterm_ends_a_process_whose_work_loses_a_cancellation(home: Path) -> None:
    settings = environment(Settings(home=home))
    process = subprocess.Popen(command(f"one={HARD_TO_CANCEL}"), env=os.environ | settings)
    eventually((home / "runs").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0


@pytest.mark.skipif("outbound" not in GROUPS, reason="only extensions have roles in it")
def test_a_process_without_a_selected_role_waits_for_sigterm(home: Path) -> None:
    settings = environment(Settings(home=home, beat_file=home / "beat"))
    process = subprocess.Popen(command("outbound"), env=os.environ | settings | {SELECTION: ""})
    eventually((home / "beat").exists)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0


@pytest.mark.full
def test_an_error_that_ends_a_process_is_one_log_line(home: Path) -> None:
    settings = environment(Settings(home=home))
    result = subprocess.run(
        command(f"bad={CRASHING}"),
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    [_, last] = result.stderr.splitlines()
    assert "CRITICAL deploy.run: bad failed" in last
    assert "RuntimeError: this service always crashes" in last


@pytest.mark.full
@pytest.mark.parametrize("level", ["info", "debug"])
def test_the_log_has_no_urls_of_requests(home: Path, level: str) -> None:
    settings = environment(Settings(home=home, log_level=level))
    result = subprocess.run(
        command(f"one={REQUESTING}"),
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "one ended" in result.stderr
    assert "secret-token" not in result.stderr


@pytest.mark.full
def test_an_unknown_process_is_refused() -> None:
    result = subprocess.run(command("nonesuch"), capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "'nonesuch'" in result.stderr


def test_settings_survive_a_round_trip_through_the_environment(home: Path) -> None:
    settings = Settings(home=home, nats_url="nats://somewhere", lease_seconds=7)
    variables = environment(settings)
    assert variables["ECOLINK_LEASE_SECONDS"] == "7"
    assert "ECOLINK_DATABASE_URL" not in variables


def test_every_process_is_declared_as_a_module_and_a_callable() -> None:
    for name, target in PROCESSES.items():
        own = rf"services\.{name}|gateway|extensions\.[a-z_]+(\.process)?"
        assert re.fullmatch(rf"({own})\.app:run", target)


def record(level: int, line: int, message: str = "GET %s", *values: str) -> logging.LogRecord:
    return logging.LogRecord("gateway", level, "a.py", line, message, values or ("/",), None)


def test_control_characters_are_escaped() -> None:
    said = OneLine().format(record(logging.INFO, 1, "GET %s", "/\x1b[2J\r\n\x9b\x7fé"))
    assert said.endswith("GET /\\x1b[2J\\x0d ⏎ \\x9b\\x7fé")


def test_a_flood_of_log_lines_is_throttled_and_counted() -> None:
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    for level, most in ((logging.WARNING, MOST_WARNINGS), (logging.INFO, MOST_LINES)):
        written = [throttle.filter(record(level, level)) for _ in range(most + 70)]
        assert sum(written) == most
    assert throttle.filter(record(logging.WARNING, 9)), "another line is not affected"
    now[0] += WINDOW_SECONDS
    later = record(logging.WARNING, logging.WARNING)
    assert throttle.filter(later)
    assert "70 more like this" in later.getMessage()
    again = record(logging.WARNING, logging.WARNING)
    assert throttle.filter(again)
    assert again.getMessage() == "GET /"
