"""The scheduler and its trainers in one container."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.docker import trainer_host
from deploy.docker.trainer_host import TrainerHost
from deploy.local.home import Home
from infrastructure.process.liveness import birth
from infrastructure.settings import Settings
from tests.polling import eventually

# Stands for the scheduler: it counts its starts, and fails until the third.
SCHEDULER = """
import os, signal, sys, time
from pathlib import Path
starts = Path(sys.argv[1]) / "starts"
with starts.open("a") as file:
    file.write(os.environ["ECOLINK_SUPERVISOR_PID"] + "\\n")
if len(starts.read_text().split()) < int(sys.argv[2]):
    sys.exit(7)
signal.signal(signal.SIGTERM, lambda *_: (starts.with_name("stopped").touch(), sys.exit(0)))
starts.with_name("ready").touch()
while True:
    time.sleep(0.05)
"""

# Stands for the process of a pod: it ends after SIGTERM, unless it is stubborn.
POD = """
import signal, sys, time
from pathlib import Path
end = (lambda *_: None) if sys.argv[2:] else (lambda *_: sys.exit(0))
signal.signal(signal.SIGTERM, end)
Path(sys.argv[1]).touch()
while True:
    time.sleep(0.05)
"""


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_host, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(trainer_host, "POD_MARGIN_SECONDS", 1.0)


def host_of(home: Path, working_start: int) -> TrainerHost:
    command = (sys.executable, "-c", SCHEDULER, str(home), str(working_start))
    return TrainerHost(Settings(home=home, grace_seconds=0), command)


@contextmanager
def running(host: TrainerHost) -> Iterator[None]:
    thread = threading.Thread(target=host.run)
    thread.start()
    try:
        yield
    finally:
        host.stop()
        thread.join()


def pod(home: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start the process of a pod, recorded as the local launcher records it."""
    folder = Home(home).pods / "job.1"
    folder.mkdir(parents=True)
    command = [sys.executable, "-c", POD, str(folder / "ready"), *options]
    started = subprocess.Popen(command, start_new_session=True)
    record = {"pid": started.pid, "born": birth(started.pid)}
    (folder / "pod.json").write_text(json.dumps(record))
    eventually((folder / "ready").exists)
    return started


def test_a_scheduler_that_fails_is_started_again_and_trainers_continue(home: Path) -> None:
    trainer = pod(home)
    with running(host_of(home, working_start=3)):
        eventually((home / "ready").exists)
        assert trainer.poll() is None
    # Trainers end with this process, not with the scheduler.
    assert (home / "starts").read_text().split() == [str(os.getpid())] * 3
    assert trainer.wait() == 0


def test_a_stop_ends_the_scheduler_before_the_trainers(home: Path) -> None:
    trainer = pod(home)
    with running(host_of(home, working_start=1)):
        eventually((home / "ready").exists)
    assert (home / "stopped").exists()
    assert trainer.wait() == 0


def test_a_trainer_that_does_not_stop_is_killed(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = pod(home, "stubborn")
    with running(host_of(home, working_start=1)):
        eventually((home / "ready").exists)
    assert trainer.wait() == -signal.SIGKILL
    assert "1 trainers did not stop in time" in caplog.text


def test_a_stop_before_the_start_starts_nothing(home: Path) -> None:
    host = host_of(home, working_start=1)
    host.stop()
    host.run()
    assert not (home / "starts").exists()


def test_a_stop_during_the_pause_ends_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_host, "FIRST_PAUSE_SECONDS", 3600.0)
    with running(host_of(home, working_start=2)):
        eventually((home / "starts").exists)
    assert not (home / "ready").exists()
