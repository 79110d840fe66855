"""The Slurm launcher on a fake slurmrestd, whose answers were recorded from a real one."""

from __future__ import annotations

import logging
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from domain.catalog.catalog import Catalog
from domain.catalog.catalog_entries import GpuType, Region
from extensions.slurm.launcher import SlurmLauncher
from extensions.slurm.pod import STARTED_ALREADY
from extensions.slurm.rest import gpus_of
from extensions.slurm.settings import SlurmSettings
from infrastructure.training.reports import FINAL_REPORT, Credentials
from services.scheduler.launchers.launcher import (
    LauncherUnavailable,
    LaunchFailed,
    Pod,
    PodName,
    PodPending,
)
from services.scheduler.launchers.recent_capacity import HOLD_SECONDS, RecentCapacity
from tests.builders.commands import NOW, FixedClock, command
from tests.builders.examples import JOB_ID
from tests.extensions.slurm.cluster import GPUS, NODES
from tests.extensions.slurm.fake import FakeSlurm, fake_slurm
from tests.extensions.slurm.rows import slurm_settings
from tests.polling import eventually
from tests.services.scheduler.launchers.test_launcher import (
    NAME,
    launched,
    living,
    shipped_catalog,
    spec,
)

ALL_GPUS = GPUS * len(NODES)
SLEEP = ["/bin/sh", "-c", "exec sleep 600"]


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[FakeSlurm]:
    with fake_slurm(tmp_path) as slurm:
        yield slurm


@pytest.fixture
def settings(slurm: FakeSlurm, tmp_path: Path) -> SlurmSettings:
    given = slurm_settings(slurm)
    given |= {"home": tmp_path / "home", "grace_seconds": 20}
    return SlurmSettings(**given, nats_url="nats://user:word@10.0.0.1:1")


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def catalog() -> Catalog:
    catalog = shipped_catalog()
    with command():
        catalog.declare_capacity("local", "cpu", 100)
    return catalog


@pytest.fixture
def launcher(
    settings: SlurmSettings, clock: FixedClock, catalog: Catalog
) -> Iterator[SlurmLauncher]:
    launcher = SlurmLauncher(settings, clock, lambda: catalog, SLEEP)
    yield launcher
    launcher.close()


def job_of(slurm: FakeSlurm, name: PodName = NAME) -> int:
    """The only job of a pod."""
    (job,) = [each.id for each in slurm.jobs.values() if each.description["name"] == str(name)]
    return job


def folder_of(slurm: FakeSlurm, name: PodName = NAME) -> Path:
    return slurm.directory / str(name)


# Launch and queue


def test_a_queued_job_is_bound_when_slurm_has_started_it(
    launcher: SlurmLauncher, slurm: FakeSlurm, clock: FixedClock
) -> None:
    """Even if no scheduler ran at that time, and if the clock of Slurm is wrong."""
    slurm.gpus = 0
    for _ in range(2):
        with pytest.raises(PodPending, match="is queued"):
            launcher.launch(spec())
    assert (launcher.poll(NAME), launcher.pods()) == (None, [NAME])
    slurm.gpus = ALL_GPUS
    slurm.waiting_seconds = 7200
    clock.time += timedelta(hours=3)
    pod = launched(launcher, spec())
    assert (pod.bound_at, pod.alive) == (NOW + timedelta(hours=2), True)
    clock.time += timedelta(hours=1)
    assert launched(launcher, spec()).bound_at == pod.bound_at
    assert len(slurm.jobs) == 1


def test_a_queued_job_gets_renewed_credentials(launcher: SlurmLauncher, slurm: FakeSlurm) -> None:
    slurm.gpus = 0
    for jwt in ("first", "second"):
        given = spec().model_copy(update={"credentials": Credentials(jwt=jwt, seed="s")})
        with pytest.raises(PodPending):
            launcher.launch(given)
    assert '"second"' in (folder_of(slurm) / "spec.json").read_text()


def test_removing_a_queued_launch_cancels_its_job(
    launcher: SlurmLauncher, slurm: FakeSlurm
) -> None:
    slurm.gpus = 0
    with pytest.raises(PodPending):
        launcher.launch(spec())
    launcher.remove(NAME)
    slurm.gpus = ALL_GPUS
    launcher.capacity({})  # in which the fake would start the job
    assert slurm.jobs[job_of(slurm)].state == "CANCELLED_QUEUED"
    assert launcher.pods() == []


def test_only_the_user_of_the_jobs_can_read_the_spec(
    launcher: SlurmLauncher, slurm: FakeSlurm
) -> None:
    launched(launcher, spec())
    assert stat.S_IMODE((folder_of(slurm) / "spec.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder_of(slurm).stat().st_mode) == 0o700


def test_a_job_has_its_resources_and_no_secrets(
    settings: SlurmSettings, slurm: FakeSlurm, catalog: Catalog
) -> None:
    wanted = {
        "slurm_account": "ml",
        "slurm_qos": "high",
        "slurm_cpus_per_gpu": 4,
        "slurm_memory_per_gpu_bytes": 1000 * 1024**2,
        "slurm_time_limit_seconds": 90 * 60,
    }
    settings = settings.model_copy(update=wanted)
    launcher = SlurmLauncher(settings, FixedClock(), lambda: catalog, SLEEP)
    given = spec().model_copy(
        update={"gpu_count": 2, "credentials": Credentials(jwt="a-jwt", seed="a-seed")}
    )
    launched(launcher, given)
    job = slurm.jobs[job_of(slurm)]
    expected = {
        "name": str(NAME),
        "partition": "train",
        "account": "ml",
        "qos": "high",
        "tres_per_node": "gres/gpu:cpu:2",
        "cpus_per_task": 8,
        "requeue": False,
        "kill_warning_signal": "TERM",
        "memory_per_node": {"set": True, "infinite": False, "number": 2000},
        "time_limit": {"set": True, "infinite": False, "number": 90},
        "kill_warning_delay": {"set": True, "infinite": False, "number": 30},
    }
    assert {key: job.description[key] for key in expected} == expected
    assert "ECOLINK_NATS_URL=nats://10.0.0.1:1" in job.description["environment"]
    sent = f"{job.description}{job.script}"
    assert not any(secret in sent for secret in ("a-jwt", "a-seed", "word"))
    launcher.kill(NAME)


def test_a_lost_answer_to_a_submission_submits_no_second_job(
    launcher: SlurmLauncher, slurm: FakeSlurm, clock: FixedClock
) -> None:
    slurm.loses_answers = True
    with pytest.raises(LauncherUnavailable, match="does not answer"):
        launcher.launch(spec())
    slurm.loses_answers = False
    clock.time += timedelta(seconds=5)
    pod = launched(launcher, spec())
    assert (len(slurm.jobs), pod.bound_at) == (1, clock.time)


def test_removing_a_launch_without_an_answer_cancels_its_job(
    launcher: SlurmLauncher, slurm: FakeSlurm
) -> None:
    slurm.loses_answers = True
    with pytest.raises(LauncherUnavailable):
        launcher.launch(spec())
    launcher.remove(NAME)
    assert slurm.jobs[job_of(slurm)].state == "CANCELLED"


def test_a_job_that_slurm_cannot_run_is_not_queued(
    launcher: SlurmLauncher, slurm: FakeSlurm, subtests: pytest.Subtests
) -> None:
    for change, reason in (
        ({"gpu_count": ALL_GPUS + 1}, "cannot place 5 GPUs of type cpu"),
        ({"gpu_count": GPUS + 1}, "cannot place 3 GPUs of type cpu"),
        ({"gpu_type": "l4"}, "has no GPUs of type l4"),
        ({"gpu_type": "abacus"}, "has no GPU type 'abacus'"),
        ({"region": "moon"}, "Add it to ECOLINK_SLURM_REGIONS"),
    ):
        with subtests.test(reason):
            with pytest.raises(LaunchFailed, match=reason):
                launcher.launch(spec().model_copy(update=change))
            assert (launcher.pods(), slurm.jobs) == ([], {})


def test_a_job_that_a_limit_refuses_now_is_submitted_later(
    launcher: SlurmLauncher, slurm: FakeSlurm
) -> None:
    slurm.refusal = 2050  # ESLURM_ACCOUNTING_POLICY
    with pytest.raises(PodPending, match="does not accept the job now"):
        launcher.launch(spec())
    slurm.refusal = None
    assert launched(launcher, spec()).alive


def test_a_job_that_slurm_refuses_for_good_is_a_failed_launch(
    launcher: SlurmLauncher, slurm: FakeSlurm
) -> None:
    slurm.refusal = 2066  # ESLURM_INVALID_QOS
    with pytest.raises(LaunchFailed, match="2066"):
        launcher.launch(spec())
    assert launcher.pods() == []


def test_a_job_whose_processes_cannot_be_killed_is_lost_after_a_while(
    launcher: SlurmLauncher, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(launcher, spec())
    slurm.lose(job_of(slurm), "COMPLETING")
    pod = launcher.poll(NAME)
    assert pod is not None
    assert pod.alive
    monkeypatch.setattr("extensions.slurm.launcher.COMPLETING_SECONDS", 0.0)
    eventually(lambda: (pod := launcher.poll(NAME)) is not None and not pod.alive)


def test_a_job_that_ends_in_the_queue_is_a_failed_launch(
    launcher: SlurmLauncher, slurm: FakeSlurm
) -> None:
    slurm.gpus = 0
    with pytest.raises(PodPending):
        launcher.launch(spec())
    slurm.lose(job_of(slurm), "CANCELLED")  # by an administrator
    with pytest.raises(LaunchFailed, match=r"ended before it started: CANCELLED"):
        launcher.launch(spec())
    assert launcher.pods() == []


def test_a_job_that_ended_and_was_forgotten_before_its_binding_has_run(
    launcher: SlurmLauncher, slurm: FakeSlurm
) -> None:
    """Its adapter may be finished, so its last report counts."""
    slurm.gpus = 0
    with pytest.raises(PodPending):
        launcher.launch(spec())
    slurm.gpus = ALL_GPUS
    launcher.capacity({})
    eventually((folder_of(slurm) / "started").exists)
    slurm.lose(job_of(slurm))
    slurm.forget(job_of(slurm))
    assert launcher.launch(spec()) == Pod(NAME, NOW, alive=False)


@pytest.mark.full
def test_a_pod_starts_only_once(tmp_path: Path) -> None:
    """A job that Slurm starts again must not run beside the next segment."""
    arguments = [str(tmp_path), "/bin/sh", "-c", "echo ran >> ran; kill -9 $$"]
    pod = [sys.executable, "-m", "extensions.slurm.pod", *arguments]
    codes = [subprocess.run(pod, cwd=tmp_path, check=False).returncode for _ in range(2)]
    assert codes == [137, STARTED_ALREADY]
    assert (tmp_path / "ran").read_text() == "ran\n"


# End of a pod


@pytest.mark.full
@pytest.mark.parametrize("state", ["NODE_FAIL", "PREEMPTED", "CANCELLED"])
def test_a_job_that_slurm_ended_is_a_lost_pod(
    launcher: SlurmLauncher, slurm: FakeSlurm, state: str
) -> None:
    launched(launcher, spec())
    slurm.lose(job_of(slurm), state)
    eventually(lambda: not living(launcher))
    assert launcher.poll(NAME) == Pod(NAME, NOW, alive=False)


def test_a_lost_pod_keeps_its_last_report(launcher: SlurmLauncher, slurm: FakeSlurm) -> None:
    launched(launcher, spec())
    (folder_of(slurm) / FINAL_REPORT).write_bytes(b"{}")
    slurm.lose(job_of(slurm))
    assert launcher.kept_report(NAME) == b"{}"


def test_the_exit_code_is_slurms_if_the_shared_directory_does_not_show_it_yet(
    settings: SlurmSettings, slurm: FakeSlurm, catalog: Catalog
) -> None:
    failing = ["/bin/sh", "-c", "exit 7"]
    launcher = SlurmLauncher(settings, FixedClock(), lambda: catalog, failing)
    launched(launcher, spec())
    code = folder_of(slurm) / "exit.json"
    eventually(code.exists)
    process = slurm.jobs[job_of(slurm)].process
    assert process is not None
    process.wait()
    code.unlink()
    eventually(lambda: not living(launcher))
    assert launcher.poll(NAME) == Pod(NAME, NOW, alive=False, exit_code=7)


def test_an_ended_pod_whose_job_is_forgotten_is_lost(
    launcher: SlurmLauncher, slurm: FakeSlurm
) -> None:
    launched(launcher, spec())
    slurm.lose(job_of(slurm))
    slurm.forget(job_of(slurm))
    eventually(lambda: not living(launcher))
    assert launcher.poll(NAME) == Pod(NAME, NOW, alive=False)


# An engine that does not answer


def test_without_answers_every_pod_is_in_an_unknown_state(
    launcher: SlurmLauncher, slurm: FakeSlurm, caplog: pytest.LogCaptureFixture
) -> None:
    pod = launched(launcher, spec())
    other = spec(2)
    slurm.away = True
    calls = [
        lambda: living(launcher),
        lambda: launcher.launch(other),
        lambda: launcher.stop(NAME),
        lambda: launcher.kill(NAME),
        lambda: launcher.remove(NAME),
        lambda: launcher.capacity({}),
    ]
    caplog.clear()
    eventually(lambda: raises_unavailable(calls[0]))  # once the last states are too old
    assert all(map(raises_unavailable, calls))
    assert launcher.pods() == [NAME, PodName(JOB_ID, 2)]
    assert [each.levelname for each in caplog.records if each.name == "slurm"] == ["WARNING"]
    slurm.away = False
    assert launcher.poll(NAME) == pod
    launched(launcher, other)


def raises_unavailable(call: Any) -> bool:
    try:
        call()
    except LauncherUnavailable:
        return True
    return False


def test_a_renewed_token_needs_no_restart(launcher: SlurmLauncher, slurm: FakeSlurm) -> None:
    launched(launcher, spec())
    slurm.token = "a.new.token"
    with pytest.raises(LauncherUnavailable, match="scontrol token username=ecolink"):
        launcher.capacity({})
    slurm.token_file.write_text("SLURM_JWT=a.new.token")
    assert launcher.capacity({})


def test_a_missing_token_is_named(launcher: SlurmLauncher, slurm: FakeSlurm) -> None:
    slurm.token_file.unlink()
    with pytest.raises(LauncherUnavailable, match="ECOLINK_SLURM_TOKEN_FILE"):
        launcher.capacity({})


def test_an_unmounted_directory_loses_no_pod(
    launcher: SlurmLauncher, slurm: FakeSlurm, settings: SlurmSettings, catalog: Catalog
) -> None:
    pod = launched(launcher, spec())
    mounted = slurm.directory.rename(slurm.directory.with_name("mounted"))
    slurm.directory.mkdir()
    restarted = SlurmLauncher(settings, FixedClock(), lambda: catalog, SLEEP)
    for each in (launcher, restarted):
        with pytest.raises(LauncherUnavailable, match="ECOLINK_SLURM_DIRECTORY"):
            each.pods()
        with pytest.raises(LauncherUnavailable, match="ECOLINK_SLURM_DIRECTORY"):
            each.poll(NAME)
    slurm.directory.rmdir()
    mounted.rename(slurm.directory)
    assert restarted.poll(NAME) == pod


def test_a_missing_setting_is_named(settings: SlurmSettings) -> None:
    for name in ("url", "user", "token_file", "directory", "regions"):
        lacking = settings.model_copy(update={f"slurm_{name}": None})
        with pytest.raises(ValueError, match=f"ECOLINK_SLURM_{name.upper()} is not set"):
            SlurmLauncher(lacking, FixedClock(), shipped_catalog)


# Capacity


def test_capacity_is_that_of_the_usable_nodes(
    launcher: SlurmLauncher, slurm: FakeSlurm, settings: SlurmSettings, catalog: Catalog
) -> None:
    assert launcher.capacity({}) == {("local", "cpu"): ALL_GPUS}
    slurm.nodes = "nodes_down"
    assert launcher.capacity({}) == {("local", "cpu"): ALL_GPUS}, "for 10 minutes"
    restarted = SlurmLauncher(settings, FixedClock(), lambda: catalog, SLEEP)
    known = {("local", "cpu"): ALL_GPUS, ("elsewhere", "cpu"): 8}
    assert restarted.capacity(known) == {("local", "cpu"): ALL_GPUS}, "a restart forgets nothing"


def test_a_lost_node_counts_for_ten_minutes() -> None:
    now = 0.0
    recent, place = RecentCapacity(lambda: now), ("local", "l4")
    assert recent.highest({place: 6}, known={place: 8}) == {place: 8}
    now = HOLD_SECONDS - 1
    assert recent.highest({place: 4}, known={place: 8}) == {place: 8}
    now = HOLD_SECONDS + 1
    assert recent.highest({}, known={place: 8}) == {place: 4}
    now = 2 * HOLD_SECONDS
    assert recent.highest({}, known={place: 4}) == {}


def test_the_catalog_limits_the_capacity(launcher: SlurmLauncher, catalog: Catalog) -> None:
    with command():
        catalog.declare_capacity("local", "cpu", 1)
    assert launcher.capacity({}) == {("local", "cpu"): 1}


def test_each_region_has_its_partition(
    settings: SlurmSettings, catalog: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    regions = {"local": "train", "north": "urgent", "south": "missing", "unknown": "train"}
    with command():
        for name in ("north", "south"):
            catalog.offer_region(Region(name=name, title=name, capacity={}))
    settings = settings.model_copy(update={"slurm_regions": regions})
    launcher = SlurmLauncher(settings, FixedClock(), lambda: catalog)
    expected = {("local", "cpu"): ALL_GPUS, ("north", "cpu"): ALL_GPUS}
    assert launcher.capacity({}) == expected
    assert "no partition 'missing' for region 'south'" in caplog.text


def withdraw_cpu(catalog: Catalog) -> None:
    with command():
        catalog.declare_capacity("local", "cpu", 0)
        catalog.withdraw_gpu_type("cpu")


def test_unknown_gpus_are_named_once(
    launcher: SlurmLauncher, catalog: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    withdraw_cpu(catalog)
    with caplog.at_level(logging.WARNING):
        assert [launcher.capacity({}) for _ in range(2)] == [{}, {}]
    assert caplog.text.count("unused GPUs of gres gpu:cpu") == 1


def test_a_gres_type_may_be_a_device_name(launcher: SlurmLauncher, catalog: Catalog) -> None:
    """As Slurm's AutoDetect spells it."""
    cpu = catalog.gpu_types["cpu"]
    named = {"name": "simulated", "device_names": ("CPU",), "backing": "nvidia"}
    withdraw_cpu(catalog)
    with command():
        catalog.offer_gpu_type(GpuType.model_validate(cpu.model_dump() | named))
    assert launcher.capacity({}) == {("local", "simulated"): ALL_GPUS}
    launched(launcher, spec().model_copy(update={"gpu_type": "simulated"}))


@pytest.mark.parametrize(
    ("gres", "expected"),
    [
        ("", {}),
        ("gpu:4", {"": 4}),
        ("gpu:a100:4(S:0-1),gpu:h100:2(S:0,2),mps:100", {"a100": 4, "h100": 2}),
        ("gpu:nvidia_a100-sxm4-40gb:8(IDX:0-7)", {"nvidia_a100-sxm4-40gb": 8}),
        ("shard:a100:8", {}),
    ],
)
def test_gpus_of_a_gres(gres: str, expected: dict[str, int]) -> None:
    assert gpus_of(gres) == expected
