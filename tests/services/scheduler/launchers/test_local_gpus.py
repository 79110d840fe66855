"""GPU assignment of the local launcher."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from infrastructure.settings import Settings
from services.scheduler.launchers.launcher import (
    GpusBusy,
    LauncherUnavailable,
    LaunchFailed,
    PodName,
)
from services.scheduler.launchers.local import LocalLauncher
from tests.builders.commands import FixedClock
from tests.builders.examples import JOB_ID
from tests.polling import eventually
from tests.services.scheduler.launchers.conftest import FakeNvidiaSmi
from tests.services.scheduler.launchers.test_launcher import (
    await_ready,
    living,
    shipped_catalog,
    spec,
)

LISTING = "0, NVIDIA L4\n1, NVIDIA H100 80GB HBM3\n2, NVIDIA L4\n3, NVIDIA L4\n"

PROGRAM = """
import json, os, pathlib, signal, sys, time
if sys.argv[1] == "--warm":
    pathlib.Path(sys.argv[2], "ready").touch()
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    handed = json.loads(line)
    os.environ.update(handed["environment"])
    os.dup2(os.open(handed["directory"] + "/trainer.log", os.O_WRONLY | os.O_APPEND), 1)
def leave(*_):
    while os.path.exists({stays!r}):
        time.sleep(0.01)
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
order, visible = os.environ["CUDA_DEVICE_ORDER"], os.environ["CUDA_VISIBLE_DEVICES"]
print(f"{{order}}={{visible}}.", flush=True)
while True:
    signal.pause()
"""


def open_launcher(
    home: Path, warm_trainers: int = 0, clock: FixedClock | None = None
) -> LocalLauncher:
    """A launcher whose programs do not exit while a file `stays` exists."""
    script = home / "program.py"
    script.write_text(PROGRAM.format(stays=str(home / "stays")))
    settings = Settings(
        home=home, nats_url="nats://127.0.0.1:1", grace_seconds=60, warm_trainers=warm_trainers
    )
    launcher = LocalLauncher(
        settings, clock or FixedClock(), shipped_catalog, [sys.executable, str(script)]
    )
    await_ready(launcher, settings)
    return launcher


@pytest.fixture(autouse=True)
def four_gpus(
    nvidia_smi: FakeNvidiaSmi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Three L4 and an H100. Ends their pods after the test."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    nvidia_smi.answers(LISTING)
    yield
    launcher = open_launcher(tmp_path)
    for name in launcher.pods():
        end(launcher, name.segment)


def seen(launcher: LocalLauncher, segment: int, gpu_type: str, gpu_count: int = 1) -> str:
    """Launch a segment. Returns the GPUs that its program sees."""
    wanted = spec(segment).model_copy(update={"gpu_type": gpu_type, "gpu_count": gpu_count})
    name = launcher.launch(wanted).name
    line = eventually(lambda: launcher.log(name, 100).decode().partition("\n")[0])
    order, _, visible = line.partition("=")
    assert order == "PCI_BUS_ID"
    return visible.rstrip(".")


def end(launcher: LocalLauncher, segment: int) -> None:
    launcher.stop(PodName(JOB_ID, segment))
    eventually(lambda: not living(launcher, PodName(JOB_ID, segment)))


@pytest.mark.full
def test_each_pod_has_its_own_gpus(tmp_path: Path) -> None:
    launcher = open_launcher(tmp_path)
    assert seen(launcher, 1, "l4") == "0"
    assert seen(launcher, 2, "h100") == "1"
    assert seen(launcher, 3, "l4", gpu_count=2) == "2,3"


def test_a_warm_start_sets_the_gpus(tmp_path: Path) -> None:
    launcher = open_launcher(tmp_path, warm_trainers=1)
    assert seen(launcher, 1, "h100") == "1"
    assert not list((tmp_path / "warm").glob("*/")), "it was taken"


@pytest.mark.full
def test_an_ended_pods_gpus_are_free_before_its_removal(tmp_path: Path) -> None:
    launcher = open_launcher(tmp_path)
    assert seen(launcher, 1, "l4") == "0"
    assert seen(launcher, 2, "l4") == "2"
    end(launcher, 1)
    assert seen(launcher, 3, "l4") == "0"


@pytest.mark.full
def test_a_reopened_launcher_knows_occupied_gpus(tmp_path: Path) -> None:
    assert seen(open_launcher(tmp_path), 1, "l4", gpu_count=2) == "0,2"
    assert seen(open_launcher(tmp_path), 2, "l4") == "3"


def test_too_few_free_gpus_are_busy_and_leave_no_files(tmp_path: Path) -> None:
    launcher = open_launcher(tmp_path)
    assert seen(launcher, 1, "l4", gpu_count=2) == "0,2"
    with pytest.raises(GpusBusy):
        seen(launcher, 2, "l4", gpu_count=2)
    assert launcher.pods() == [PodName(JOB_ID, 1)]
    assert len(list((tmp_path / "pods").iterdir())) == 1


@pytest.mark.parametrize(("gpu_type", "gpu_count"), [("h100", 2), ("abacus", 1)])
def test_gpus_that_the_machine_does_not_have_are_refused(
    tmp_path: Path, gpu_type: str, gpu_count: int
) -> None:
    with pytest.raises(LaunchFailed):
        seen(open_launcher(tmp_path), 1, gpu_type, gpu_count)


def test_a_launch_waits_while_the_driver_fails(nvidia_smi: FakeNvidiaSmi, tmp_path: Path) -> None:
    nvidia_smi.answers(LISTING, 9)
    launcher = open_launcher(tmp_path)
    with pytest.raises(LauncherUnavailable):
        seen(launcher, 1, "h100")
    nvidia_smi.answers(LISTING)
    assert seen(launcher, 1, "h100") == "1"


@pytest.mark.full
def test_gpus_are_busy_until_the_last_process_exits(tmp_path: Path) -> None:
    """A segment ends with its final report, but its GPUs are free when its process has exited."""
    clock, stays = FixedClock(), tmp_path / "stays"
    stays.touch()
    launcher = open_launcher(tmp_path, clock=clock)
    assert seen(launcher, 1, "h100") == "1"
    launcher.stop(PodName(JOB_ID, 1))
    with pytest.raises(GpusBusy):
        seen(launcher, 2, "h100")
    stays.unlink()
    eventually(lambda: not living(launcher, PodName(JOB_ID, 1)))
    clock.time += timedelta(seconds=20)
    assert seen(launcher, 2, "h100") == "1"
    pod = launcher.poll(PodName(JOB_ID, 2))
    assert pod is not None
    assert pod.bound_at == clock.time


@pytest.mark.full
def test_a_cpu_backed_type_sees_no_gpu(tmp_path: Path) -> None:
    launcher = open_launcher(tmp_path)
    assert seen(launcher, 1, "cpu") == ""
    assert seen(launcher, 2, "cpu-small") == ""
