"""The local launcher's shim when surrounding processes die."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from deploy.local.home import Home
from deploy.local.pods import living_pods
from infrastructure.settings import Settings
from services.scheduler.launchers import local
from services.scheduler.launchers.launcher import GpusBusy, LaunchFailed
from services.scheduler.launchers.local import LocalLauncher
from tests.builders.commands import FixedClock
from tests.polling import eventually
from tests.services.scheduler.launchers.test_launcher import (
    NAME,
    PROGRAM,
    ended,
    living,
    program_of,
    shipped_catalog,
    spec,
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, nats_url="nats://127.0.0.1:1", grace_seconds=0)


@contextmanager
def opened(settings: Settings, program: str = PROGRAM) -> Iterator[LocalLauncher]:
    script = settings.home / "program.py"
    script.write_text(program)
    launcher = LocalLauncher(settings, FixedClock(), shipped_catalog, [sys.executable, str(script)])
    yield launcher
    for name in launcher.pods():
        launcher.stop(name)
        eventually(lambda name=name: not living(launcher, name))


def test_a_trainer_dies_with_its_shim_and_the_pod_is_lost(settings: Settings) -> None:
    with opened(settings) as launcher:
        launcher.launch(spec())
        trainer = program_of(launcher)
        shim = trainer.parent()
        assert shim is not None
        shim.kill()
        pod = ended(launcher)
        assert pod.exit_code is None
        eventually(lambda: not trainer.is_running())


def test_the_end_of_the_supervisor_ends_the_trainer(settings: Settings) -> None:
    supervisor = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        supervised = settings.model_copy(update={"supervisor_pid": supervisor.pid})
        with opened(supervised) as launcher:
            launcher.launch(spec())
            program_of(launcher)
            supervisor.kill()
            supervisor.wait()
            assert ended(launcher).exit_code == 7, "it was asked to, and could save"
    finally:
        supervisor.kill()
        supervisor.wait()


@pytest.mark.full
def test_a_trainer_reads_its_settings_without_a_supervisor(settings: Settings) -> None:
    with opened(settings, "from infrastructure.settings import Settings\nSettings()\n") as launcher:
        launcher.launch(spec())
        assert ended(launcher).exit_code == 0, launcher.log(NAME, 10_000).decode()


def test_setting_the_clock_keeps_pods_alive(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(settings) as launcher:
        launcher.launch(spec())
        program_of(launcher)
        booted = psutil.boot_time()
        monkeypatch.setattr("psutil._pslinux.boot_time", lambda: booted + 60)
        assert living(launcher)
        assert len(living_pods(Home(settings.home))) == 1


@pytest.mark.full
def test_a_trainer_that_does_not_stop_is_killed_after_its_grace(settings: Settings) -> None:
    deaf = PROGRAM.replace("lambda *_: sys.exit(7)", "signal.SIG_IGN")
    with opened(settings, deaf) as launcher:
        launcher.launch(spec())
        program_of(launcher)
        launcher.stop(NAME)
        assert ended(launcher).exit_code == -9


def test_a_repeated_launch_binds_the_gpus_when_it_starts_the_shim(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time between a launch that was killed and its repetition is not evidence of a running pod."""
    with opened(settings) as launcher:
        with monkeypatch.context() as patch:
            patch.setattr(local, "start_shim", _killed)
            with pytest.raises(KeyboardInterrupt):
                launcher.launch(spec())
        clock = launcher._clock
        assert isinstance(clock, FixedClock)
        clock.time += timedelta(seconds=60)

        pod = launcher.launch(spec())

        assert pod.bound_at == clock.time


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_shim_is_in_another_session(settings: Settings) -> None:
    """A signal to the launcher's process group does not reach the shim."""
    with opened(settings) as launcher:
        launcher.launch(spec())
        shim = program_of(launcher).parent()
        assert shim is not None
        me = psutil.Process()
        assert _group(shim) != _group(me)


def _group(process: psutil.Process) -> int:
    import os

    return os.getsid(process.pid)


def test_a_launch_without_disk_fails(settings: Settings) -> None:
    with opened(settings) as launcher:
        (settings.home / "pods").rmdir()
        (settings.home / "pods").write_text("a file where the folder was")
        with pytest.raises(LaunchFailed):
            launcher.launch(spec())


def test_a_late_shim_never_starts_its_trainer(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each Python process sleeps at its start, as on a machine short of memory."""
    slow = settings.home / "slow"
    slow.mkdir()
    began = settings.home / "began"
    lines = f"import pathlib, time\npathlib.Path({str(began)!r}).touch()\ntime.sleep(60)\n"
    (slow / "sitecustomize.py").write_text(lines)
    with opened(settings) as launcher:
        with monkeypatch.context() as patch:
            patch.setenv("PYTHONPATH", f"{slow}")
            # Its time is over once it has begun, however long that takes.
            looks = count()
            clock = SimpleNamespace(
                monotonic=lambda: 100.0 * next(looks) * began.exists(), sleep=time.sleep
            )
            patch.setattr(local, "time", clock)
            with pytest.raises(LaunchFailed):
                launcher.launch(spec())
        assert launcher.pods() == []
        assert not list((settings.home / "pods").iterdir())
        assert not _processes_of(str(settings.home / "pods"))
        assert launcher.poll(NAME) is None
        assert launcher.launch(spec()).alive


def test_only_a_repeated_launch_waits_for_a_slow_machine(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one runs in the handler of an event, and running trainers wait for the next."""
    waits: list[float] = []

    def late(_directory: Path, _shim: object, seconds: float) -> bool:
        waits.append(seconds)
        return False

    monkeypatch.setattr(local, "FIRST_SECONDS", 2.0)
    monkeypatch.setattr(local, "_await_pod", late)
    with opened(settings) as launcher:
        for error in (GpusBusy, LaunchFailed, LaunchFailed):
            with pytest.raises(error):
                launcher.launch(spec())
    assert waits == [2.0, settings.launch_seconds, settings.launch_seconds]


def test_a_launch_does_not_wait_for_another_slow_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "FIRST_SECONDS", 0.01)
    with opened(settings) as launcher, launcher._launching, pytest.raises(GpusBusy):
        launcher.launch(spec())


def _processes_of(text: str) -> list[psutil.Process]:
    """Processes with this text on their command line."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(text in argument for argument in process.info["cmdline"] or ())
    ]


def test_a_shim_imports_no_library_but_psutil() -> None:
    script = "import sys, services.scheduler.launchers.shim; print(*sys.modules)"
    command = [sys.executable, "-P", "-c", script]
    imported = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert "psutil" in imported
    assert not {"pydantic", "psycopg", "nats", "domain"} & set(imported)
