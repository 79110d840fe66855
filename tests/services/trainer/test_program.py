"""The program on the pod: signals, leases, failures, and NATS restarts."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from domain.training.checkpoint import SavedCheckpoint
from domain.training.phases import Phase
from infrastructure.artifacts import Artifacts
from infrastructure.reports import Control, SegmentSpec
from infrastructure.settings import Settings
from services.scheduler.launchers import warm_pool
from services.scheduler.launchers.launcher import PodName
from services.scheduler.launchers.local import LocalLauncher
from services.trainer.lease import OVERRUN_EXIT_CODE
from tests.builders.commands import FixedClock
from tests.polling import eventually
from tests.services.scheduler.launchers.test_launcher import await_ready, living, shipped_catalog
from tests.services.trainer.conftest import SpecMaker, chats
from tests.services.trainer.nats_server import ISSUER, NatsServer
from tests.services.trainer.notes import resuming
from tests.services.trainer.program import answer, reports

LONG = {"epochs": 60, "save_steps": 15, "dropout": 0.1}


def losses(server: NatsServer, spec: SegmentSpec) -> dict[int, float]:
    """Loss by step over all segments; a repeated step must have the same loss."""
    by_step: dict[int, float] = {}
    for message in server.messages("TELEMETRY", f"telemetry.{spec.account_id}.{spec.job_id}.>"):
        assert by_step.setdefault(message["step"], message["train_loss"]) == message["train_loss"]
    return by_step


def again(spec: SegmentSpec, checkpoint: dict) -> SegmentSpec:
    """The next segment of a job, from a reported checkpoint, with credentials of its own."""
    spec = resuming(spec, SavedCheckpoint.model_validate(checkpoint))
    issued = ISSUER.issue(spec.account_id, spec.job_id, spec.segment)
    return spec.model_copy(update={"credentials": issued})


def adapter_sha256(artifacts: Artifacts, spec: SegmentSpec) -> str:
    files = artifacts.manifest(spec.adapter_prefix).files
    return next(file.sha256 for file in files if file.path == "adapter_model.safetensors")


@pytest.mark.full
def test_runs_after_sigterm_and_sigkill_equal_the_uninterrupted_run(
    start, run, nats_server: NatsServer, make_spec: SpecMaker, artifacts: Artifacts
) -> None:
    whole, broken = make_spec(LONG), make_spec(LONG)
    program = start(broken)
    program.await_line(r"^report .* phase=training step=[1-9]")
    program.process.send_signal(signal.SIGTERM)
    program.await_line(r"^report .* outcome=stopped", count=2)
    answer(nats_server, broken)
    assert program.wait() == 0
    stopped = reports(nats_server, broken)[-1]
    assert stopped["checkpoint"]["step"] == stopped["step"] > 0

    second = again(broken, stopped["checkpoint"])
    program = start(second)
    program.await_line(r"^checkpoint step=")
    eventually(lambda: (reports(nats_server, second) or [{}])[-1].get("checkpoint"))
    program.kill()
    last = reports(nats_server, second)[-1]
    assert last["ending"] is None

    third = again(second, last["checkpoint"])
    program = start(third)
    program.await_line(r"^report .* outcome=completed")
    answer(nats_server, third)
    assert program.wait() == 0
    expected = run(whole)
    assert losses(nats_server, third) == {m.step: m.train_loss for m in expected.steps}
    assert adapter_sha256(artifacts, third) == adapter_sha256(artifacts, whole)
    final = reports(nats_server, third)[-1]
    assert final["evaluation"] == expected.fields["evaluation"].model_dump()
    assert final["adapter_manifest_sha256"] == artifacts.manifest(third.adapter_prefix).sha256
    assert list(final["phase_seconds"]) == [phase.value for phase in Phase]
    for report in reports(nats_server, third):
        assert sum(report["phase_seconds"].values()) == pytest.approx(report["elapsed_seconds"])


@pytest.mark.parametrize("warm_trainers", [0, 1], ids=["cold", "warm"])
def test_a_stop_during_the_launch_takes_effect(
    nats_server: NatsServer,
    make_spec: SpecMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    warm_trainers: int,
) -> None:
    """The stop comes before the interpreter has started."""
    monkeypatch.setattr(warm_pool, "LEAST_MEMORY_BYTES", 0)
    settings = Settings(
        home=tmp_path / "home",
        artifacts_url=(tmp_path / "artifacts").as_uri(),
        nats_url=nats_server.url,
        warm_trainers=warm_trainers,
    )
    spec = make_spec()
    name = PodName(spec.job_id, spec.segment)
    launcher = LocalLauncher(settings, FixedClock(), shipped_catalog)
    await_ready(launcher, settings)
    launcher.launch(spec)
    launcher.stop(name)
    eventually(
        lambda: (
            not living(launcher, name)
            or any(report["ending"] for report in reports(nats_server, spec))
        )
    )
    answer(nats_server, spec)
    eventually(lambda: not living(launcher, name))
    launcher.close()
    pod = launcher.poll(name)
    assert pod is not None
    assert pod.exit_code == 0, launcher.log(name, 10_000).decode()
    assert reports(nats_server, spec)[-1]["ending"]["reason"] == "stopped"


def test_the_end_of_paid_time_saves_a_checkpoint_and_exits(
    start, nats_server: NatsServer, make_spec: SpecMaker
) -> None:
    """Without an extension or an answer, the process ends within paid time and grace."""
    # Enough for a busy machine to import and load in; no more, for all of it is waited for.
    spec = make_spec({"epochs": 100}, rows=chats(2000), paid_seconds=20, grace_seconds=10)
    program = start(spec)
    assert program.wait() == 0, program.log
    final = reports(nats_server, spec)[-1]
    assert final["ending"]["reason"] == "lease_ended"
    assert (final["checkpoint"] or {"step": 0})["step"] == final["step"]
    assert 20 <= final["elapsed_seconds"] < 30
    assert final["grace_seconds"] == pytest.approx(final["elapsed_seconds"] - 20, abs=0.002)
    assert "unanswered" in program.log


def test_a_control_message_extends_the_lease_and_stops(
    start, nats_server: NatsServer, make_spec: SpecMaker
) -> None:
    spec = make_spec({"epochs": 100}, rows=chats(2000), paid_seconds=1)
    nats_server.control(Control(job_id=spec.job_id, segment=1, paid_seconds=300))
    program = start(spec)
    program.await_line(r"^report .* phase=training step=[1-9]")
    nats_server.control(Control(job_id=spec.job_id, segment=1, paid_seconds=300, stop=True))
    program.await_line(r"^report .* outcome=stopped")
    answer(nats_server, spec)
    assert program.wait() == 0
    assert reports(nats_server, spec)[-1]["grace_seconds"] == 0.0


def test_a_failure_reports_its_class_and_keeps_its_traceback_for_the_operator(
    start, nats_server: NatsServer, make_spec: SpecMaker
) -> None:
    spec = make_spec({"target_modules": ["c_attn"]})
    program = start(spec)
    program.await_line(r"^report .* outcome=crashed")
    answer(nats_server, spec)
    assert program.wait() == 1
    final = reports(nats_server, spec)[-1]
    assert (final["ending"]["reason"], final["ending"]["error_class"]) == (
        "crashed",
        "TargetModulesNotFound",
    )
    assert final["ending"]["failure"] == "bad_data"
    lines = nats_server.messages("TELEMETRY", f"logs.{spec.account_id}.{spec.job_id}.>")
    assert [line["n"] for line in lines] == list(range(1, len(lines) + 1))
    errors = [line["text"] for line in lines if line["level"] == "ERROR"]
    (error,) = errors
    assert error.startswith("TargetModulesNotFound: ")
    assert "c_attn" in error
    assert not any('File "' in line["text"] for line in lines)
    assert "Traceback (most recent call last)" in program.log


def test_the_watchdog_ends_a_process_that_hangs_beyond_its_grace(
    start, nats_server: NatsServer, make_spec: SpecMaker
) -> None:
    spec = make_spec(paid_seconds=1, grace_seconds=0)
    program = start(spec)  # one second is over before the imports are
    assert program.wait() == OVERRUN_EXIT_CODE
    assert "overrun elapsed=" in program.log
