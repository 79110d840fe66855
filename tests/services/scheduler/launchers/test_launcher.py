"""Conformance tests of the Launcher port.

An extension with a launcher adds ROWS in its test module `launchers`.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from domain.catalog.catalog import Catalog
from domain.catalog.catalog_entries import shipped_offers
from domain.training.hyperparameters import Hyperparameters
from infrastructure.settings import Settings
from infrastructure.training.reports import SegmentSpec
from services.scheduler.launchers.launcher import Launcher, Pod, PodName, PodPending
from services.scheduler.launchers.registry import UnknownLauncher, launchers, open_launcher
from tests.builders.commands import NOW, FixedClock, command
from tests.builders.examples import ACCOUNT_ID, JOB_ID, PLAN
from tests.extension_modules import extension_modules
from tests.polling import eventually
from tests.services.scheduler.launchers.rows import Row

pytestmark = pytest.mark.full

# Prints its process id, and exits with status 7 on SIGTERM. With --warm it waits like a trainer.
PROGRAM = """
import json, os, pathlib, signal, sys
spec = sys.argv[1]
if spec == "--warm":
    print("pid", os.getpid(), flush=True)
    pathlib.Path(sys.argv[2], "ready").touch()
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    handed = json.loads(line)
    os.environ.update(handed["environment"])
    log = open(handed["directory"] + "/trainer.log", "a")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    spec = handed["directory"] + "/spec.json"
print("pid", os.getpid(), flush=True)
print("spec", spec, flush=True)
secrets = ("ECOLINK_DATABASE_URL", "OTEL_EXPORTER_OTLP_HEADERS", "AWS_SECRET_ACCESS_KEY")
print("secret" if any(map(os.environ.get, secrets)) else "no database", flush=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
while True:
    signal.pause()
"""


def await_ready(launcher: Launcher, settings: Settings) -> None:
    """Wait for a local launcher's warm trainers."""

    def ready() -> bool:
        launcher.prepare()
        return len(list((settings.home / "warm").glob("*/ready"))) == settings.warm_trainers

    eventually(ready, 300)  # it imports its libraries, which takes long on a busy machine


ROWS = {
    "local-cold": Row("local", {"warm_trainers": 0}),
    "local-warm": Row("local", {"warm_trainers": 1}, await_ready=await_ready),
}
for module in extension_modules("launchers"):
    ROWS |= module.ROWS


@pytest.fixture(params=ROWS.values(), ids=list(ROWS))
def row(request: pytest.FixtureRequest) -> Row:
    return request.param


@pytest.fixture
def settings(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with row.infrastructure(tmp_path) as more:
        yield row.model(
            home=tmp_path,
            launcher=row.launcher,
            nats_url="nats://127.0.0.1:1",
            database_url="postgresql://nobody:secret@127.0.0.1/x",
            grace_seconds=0,
            **row.settings,
            **more,
        )


@pytest.fixture
def catalog() -> Catalog:
    return shipped_catalog()


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    return [sys.executable, str(script)]


@pytest.fixture
def reopen(
    row: Row, settings: Settings, catalog: Catalog, program: list[str]
) -> Iterator[Callable[[], Launcher]]:
    """Opens the launcher again, as another process would."""
    opened_ones: list[Launcher] = []

    def reopen() -> Launcher:
        opened = launchers()[row.launcher](settings, FixedClock(), lambda: catalog, program)
        opened_ones.append(opened)
        row.await_ready(opened, settings)
        return opened

    yield reopen
    for opened in opened_ones:
        opened.close()


@pytest.fixture
def launcher(reopen: Callable[[], Launcher]) -> Iterator[Launcher]:
    opened = reopen()
    yield opened
    for name in opened.pods():
        opened.stop(name)
        eventually(lambda name=name: not living(opened, name))


def spec(segment: int = 1) -> SegmentSpec:
    return SegmentSpec(
        account_id=ACCOUNT_ID,
        job_id=JOB_ID,
        segment=segment,
        dataset_ref=PLAN.dataset_ref,
        dataset_sha256=PLAN.dataset_sha256,
        base_model=PLAN.base_model,
        base_ref=PLAN.base_ref,
        hyperparameters=Hyperparameters(),
        paid_seconds=300,
        grace_seconds=0,
        heartbeat_seconds=1,
        checkpoint_prefix="checkpoints",
        adapter_prefix="adapter",
    )


NAME = PodName(JOB_ID, 1)


def shipped_catalog() -> Catalog:
    """The catalog of a new platform."""
    with command():
        catalog = Catalog.open()
        catalog.seed(shipped_offers())
    return catalog


def launched(launcher: Launcher, spec: SegmentSpec) -> Pod:
    """Launch a segment, as the scheduler does, until the engine has started its pod."""

    def start() -> Pod | None:
        try:
            return launcher.launch(spec)
        except PodPending:
            return None

    pod = eventually(start)
    assert pod is not None
    return pod


def living(launcher: Launcher, name: PodName = NAME) -> bool:
    pod = launcher.poll(name)
    return pod is not None and pod.alive


def said(launcher: Launcher, word: str) -> list[str]:
    """The program's output after a word, once per start."""
    lines = launcher.log(NAME, 10_000).decode().splitlines()
    return [line.partition(" ")[2] for line in lines if line.startswith(word + " ")]


def program_of(launcher: Launcher) -> psutil.Process:
    """The process of the program, once it runs."""
    eventually(lambda: said(launcher, "spec"))
    return psutil.Process(int(said(launcher, "pid")[-1]))


def ended(launcher: Launcher) -> Pod:
    eventually(lambda: not living(launcher))
    pod = launcher.poll(NAME)
    assert pod is not None
    return pod


def test_a_launched_pod_is_alive_and_has_its_binding_time(launcher: Launcher) -> None:
    pod = launched(launcher, spec())
    assert pod == Pod(NAME, NOW, alive=True, beat=pod.beat)
    assert launcher.poll(NAME) == pod
    assert launcher.pods() == [NAME]


def test_the_program_gets_its_spec_but_no_database(launcher: Launcher) -> None:
    launched(launcher, spec())
    program_of(launcher)
    (path,) = said(launcher, "spec")
    assert SegmentSpec.model_validate_json(Path(path).read_text()) == spec()
    eventually(lambda: said(launcher, "no") == ["database"])


def test_a_pod_that_was_never_launched_is_unknown(launcher: Launcher) -> None:
    assert launcher.poll(PodName(uuid4(), 1)) is None
    assert launcher.log(PodName(uuid4(), 1), 100) == b""
    launcher.stop(PodName(uuid4(), 1))
    launcher.remove(PodName(uuid4(), 1))


def test_launching_twice_starts_one_process(launcher: Launcher) -> None:
    first = launched(launcher, spec())
    process = program_of(launcher)
    assert launched(launcher, spec()) == first
    assert said(launcher, "pid") == [str(process.pid)]


def test_each_segment_has_its_own_pod(launcher: Launcher) -> None:
    launched(launcher, spec(1))
    launched(launcher, spec(2))
    assert launcher.pods() == [PodName(JOB_ID, 1), PodName(JOB_ID, 2)]


def test_a_reopened_launcher_finds_running_pods(
    launcher: Launcher, reopen: Callable[[], Launcher]
) -> None:
    pod = launched(launcher, spec())
    process = program_of(launcher)
    adopting = reopen()
    assert adopting.pods() == [NAME]
    assert launched(adopting, spec()) == adopting.poll(NAME) == pod
    adopting.stop(NAME)
    assert ended(adopting).exit_code == 7
    assert not process.is_running()


def test_a_stopped_program_ends_with_its_own_exit_code(launcher: Launcher) -> None:
    launched(launcher, spec())
    program_of(launcher)
    launcher.stop(NAME)
    assert ended(launcher).exit_code == 7


def test_a_killed_program_leaves_an_exit_code(launcher: Launcher) -> None:
    launched(launcher, spec())
    program_of(launcher).kill()
    assert ended(launcher).exit_code == -signal.SIGKILL


def test_an_ended_pod_is_not_launched_again(launcher: Launcher) -> None:
    launched(launcher, spec())
    program_of(launcher).kill()
    pod = ended(launcher)
    assert launched(launcher, spec()) == pod
    assert len(said(launcher, "pid")) == 1


def test_the_end_of_the_log_is_kept_until_the_pod_is_removed(launcher: Launcher) -> None:
    launched(launcher, spec())
    process = program_of(launcher)
    eventually(lambda: said(launcher, "no"))
    assert launcher.log(NAME, 9) == b"database\n"
    process.kill()
    ended(launcher)
    launcher.remove(NAME)
    assert launcher.log(NAME, 9) == b""
    assert launcher.pods() == []
    assert launcher.poll(NAME) is None


def test_capacity_covers_only_offered_types_and_regions(
    launcher: Launcher, catalog: Catalog
) -> None:
    capacity = launcher.capacity({})
    assert capacity
    for (region, gpu_type), count in capacity.items():
        assert region in catalog.regions
        assert gpu_type in catalog.gpu_types
        assert count >= 0


def test_withdrawing_every_region_leaves_no_capacity(launcher: Launcher, catalog: Catalog) -> None:
    with command():
        for region in list(catalog.regions):
            catalog.withdraw_region(region)
    assert launcher.capacity({}) == {}


def test_every_registered_launcher_has_a_row() -> None:
    assert {row.launcher for row in ROWS.values()} == launchers().keys()


def test_an_unknown_launcher_is_refused(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, launcher="abacus")
    with pytest.raises(UnknownLauncher, match="abacus"):
        open_launcher(settings, FixedClock(), shipped_catalog)
