"""Warm trainers: start, use, failure and end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from domain.training.precision import Precision
from infrastructure.settings import Settings
from infrastructure.training.warm_start import ExpectedBase
from services.scheduler.launchers import local, warm_pool
from services.scheduler.launchers.launcher import PodName
from services.scheduler.launchers.local import LocalLauncher
from tests.builders.commands import FixedClock
from tests.builders.examples import JOB_ID
from tests.polling import eventually
from tests.services.scheduler.launchers.test_launcher import (
    NAME,
    PROGRAM,
    await_ready,
    living,
    program_of,
    said,
    shipped_catalog,
    spec,
)

OPENS = """
import sys, time
from pathlib import Path
from services.scheduler.launchers import warm_pool
from tests.services.scheduler.launchers.test_launcher import await_ready, spec
from tests.services.scheduler.launchers.test_warm_pool import launcher_on, settings_of
warm_pool.LEAST_MEMORY_BYTES = 0
settings = settings_of(Path(sys.argv[1]), 2)
launcher = launcher_on(settings)
await_ready(launcher, settings)
launcher.launch(spec())
print("launched", flush=True)
time.sleep(600)
"""


def settings_of(home: Path, warm_trainers: int = 1) -> Settings:
    return Settings(
        home=home, nats_url="nats://127.0.0.1:1", grace_seconds=0, warm_trainers=warm_trainers
    )


def launcher_on(settings: Settings) -> LocalLauncher:
    script = settings.home / "program.py"
    script.write_text(PROGRAM)
    return LocalLauncher(settings, FixedClock(), shipped_catalog, [sys.executable, str(script)])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_of(tmp_path)


@pytest.fixture
def launcher(settings: Settings) -> Iterator[LocalLauncher]:
    """A launcher with one warm trainer."""
    opened = launcher_on(settings)
    await_ready(opened, settings)
    yield opened
    opened.close()
    for name in opened.pods():
        opened.stop(name)
        eventually(lambda name=name: not living(opened, name))


def waiting(home: Path) -> list[psutil.Process]:
    """The waiting programs of a home, without their shims."""
    logs = [path.read_text().split() for path in (home / "warm").glob("*/trainer.log")]
    return [psutil.Process(int(words[1])) for words in logs if words]


def shim_of(program: psutil.Process) -> psutil.Process:
    shim = program.parent()
    assert shim is not None
    return shim


def gone(*processes: psutil.Process) -> Callable[[], bool]:
    return lambda: not any(map(runs, processes))


def runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two questions
        return False


def test_the_warm_trainer_runs_the_segment(launcher: LocalLauncher, settings: Settings) -> None:
    (warm,) = waiting(settings.home)
    launcher.launch(spec())
    assert program_of(launcher) == warm
    assert not list((settings.home / "warm").glob("*/"))


@pytest.mark.full
def test_only_waiting_trainers_end_with_the_launcher_process(tmp_path: Path) -> None:
    home = tmp_path
    process = subprocess.Popen(
        [sys.executable, "-c", OPENS, str(home)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "launched\n"
    (warm,) = waiting(home)
    shim = shim_of(warm)
    process.kill()
    process.wait()
    eventually(gone(warm, shim))

    adopting = launcher_on(settings_of(home, 0))
    assert living(adopting)
    adopting.stop(NAME)
    eventually(lambda: not living(adopting))
    pod = adopting.poll(NAME)
    assert pod is not None
    assert pod.exit_code == 7


def test_a_waiting_trainer_ends_with_the_supervisor(tmp_path: Path) -> None:
    supervisor = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    settings = settings_of(tmp_path).model_copy(update={"supervisor_pid": supervisor.pid})
    opened = launcher_on(settings)
    try:
        await_ready(opened, settings)
        (warm,) = waiting(tmp_path)
    finally:
        supervisor.kill()
        supervisor.wait()
    eventually(gone(warm))
    opened.close()


def test_a_waiting_trainer_ends_with_its_shim(launcher: LocalLauncher, settings: Settings) -> None:
    (warm,) = waiting(settings.home)
    shim_of(warm).kill()
    eventually(gone(warm))


@pytest.mark.full
def test_a_dead_warm_trainer_is_replaced_after_a_pause(
    launcher: LocalLauncher, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (warm,) = waiting(settings.home)
    shim = shim_of(warm)
    warm.kill()
    eventually(gone(shim))
    launcher.prepare()
    launcher.prepare()
    assert waiting(settings.home) == []
    launcher.launch(spec())
    assert program_of(launcher) != warm
    launcher.stop(NAME)
    eventually(lambda: not living(launcher))

    monkeypatch.setattr(warm_pool, "BACKOFF_SECONDS", 0.0)
    another = launcher_on(settings)
    await_ready(another, settings)
    (second,) = waiting(settings.home)
    shim = shim_of(second)
    second.kill()
    eventually(gone(shim))
    another.prepare()
    await_ready(another, settings)
    (third,) = waiting(settings.home)
    assert third not in (warm, second)
    another.close()


@pytest.mark.full
def test_a_failed_warm_start_starts_one_cold_trainer(
    launcher: LocalLauncher, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "WARM_START_SECONDS", 0.3)
    (warm,) = waiting(settings.home)
    shim_of(warm).suspend()
    pod = launcher.launch(spec())
    assert pod.alive
    assert program_of(launcher) != warm
    assert len(said(launcher, "pid")) == 1
    assert gone(warm)()
    assert launcher.launch(spec()) == pod


@pytest.mark.full
def test_unsupported_segments_start_cold(launcher: LocalLauncher, settings: Settings) -> None:
    (warm,) = waiting(settings.home)
    launcher.launch(spec(1).model_copy(update={"gpu_count": 2}))
    launcher.launch(spec(2).model_copy(update={"precision": Precision.NF4}))
    assert waiting(settings.home) == [warm]
    launcher.launch(spec(3))
    eventually(lambda: f"pid {warm.pid}" in launcher.log(PodName(JOB_ID, 3), 1000).decode())


def test_the_next_warm_trainer_waits_and_expects_the_last_base(
    launcher: LocalLauncher, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm = settings.home / "warm"
    launcher.launch(spec().model_copy(update={"base_manifest_sha256": "b" * 64}))
    launcher.prepare()
    assert not list(warm.glob("*/"))
    launcher.stop(NAME)
    eventually(lambda: not living(launcher))
    launcher.prepare()
    (directory,) = warm.glob("*/")
    expected = ExpectedBase.model_validate_json((directory / "expected_base.json").read_text())
    assert expected == ExpectedBase(ref=spec().base_ref, manifest_sha256="b" * 64, on_gpu=False)


def test_low_memory_prevents_warm_trainers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_pool, "LEAST_MEMORY_BYTES", 2**62)
    launcher = launcher_on(settings_of(tmp_path))
    launcher.prepare()
    assert not list((tmp_path / "warm").glob("*/"))


def test_a_failed_warm_start_is_retried_after_a_pause(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "warm").write_text("a file where the folder was")
    launcher = launcher_on(settings_of(tmp_path))
    launcher.prepare()
    launcher.prepare()
    assert len(caplog.messages) == 1
    launcher.launch(spec().model_copy(update={"base_manifest_sha256": "b" * 64}))
    launcher.stop(NAME)
    eventually(lambda: not living(launcher))
