"""The program on the pod: signals, leases, failures, and NATS restarts."""

from __future__ import annotations

import signal

import pytest

from domain.training.checkpoint import SavedCheckpoint
from domain.training.phases import SUPERVISED_PHASES
from infrastructure.settings import Settings
from services.scheduler.launchers import local, warm_pool
from services.scheduler.launchers.launcher import PodName
from services.scheduler.launchers.local import LocalLauncher
from services.trainer.lease import OVERRUN_EXIT_CODE
from tests.builders.commands import FixedClock
from tests.builders.tiny_model import chats
from tests.polling import eventually
from tests.services.scheduler.launchers.test_launcher import await_ready, living, shipped_catalog
from tests.services.trainer.program import WAIT_SECONDS, NatsServer
from tests.services.trainer.segments import Trainer, resuming

pytestmark = pytest.mark.timeout(3 * WAIT_SECONDS)

START_SECONDS = 60
"""Grace of a segment whose lease may end before the program has started on a busy machine."""

LONG = {"epochs": 60, "save_steps": 15, "dropout": 0.1}


@pytest.mark.full
def test_runs_after_sigterm_and_sigkill_equal_the_uninterrupted_run(
    start, nats_server: NatsServer, trainer: Trainer
) -> None:
    whole, first = trainer.spec(LONG), trainer.spec(LONG)
    program = start(first)
    program.await_training()
    program.process.send_signal(signal.SIGTERM)
    program.await_line(r"^report .* outcome=stopped")
    nats_server.answer(first)
    assert program.wait() == 0
    stopped = nats_server.reports(first)[-1]
    assert stopped["checkpoint"]["step"] == stopped["step"] > 0

    second = resuming(first, SavedCheckpoint.model_validate(stopped["checkpoint"]))
    program = start(second)
    program.await_line(r"^checkpoint step=")
    eventually(lambda: (nats_server.reports(second) or [{}])[-1].get("checkpoint"), WAIT_SECONDS)
    program.kill()
    last = nats_server.reports(second)[-1]
    assert last["ending"] is None

    third = resuming(second, SavedCheckpoint.model_validate(last["checkpoint"]))
    program = start(third)
    program.await_line(r"^report .* outcome=completed")
    nats_server.answer(third)
    assert program.wait() == 0
    expected = trainer.run(whole)
    losses = dict(enumerate(expected.losses, 1))
    steps = nats_server.steps(third)
    assert {step["step"] for step in steps} == losses.keys()
    assert all(step["train_loss"] == losses[step["step"]] for step in steps)
    assert trainer.adapter_sha256(third) == trainer.adapter_sha256(whole)
    reports = nats_server.reports(third)
    assert reports[-1]["evaluation"] == expected.evaluation.model_dump()
    manifest = trainer.artifacts.manifest(third.adapter_prefix)
    assert reports[-1]["adapter_manifest_sha256"] == manifest.sha256
    assert list(reports[-1]["phase_seconds"]) == [phase.value for phase in SUPERVISED_PHASES]
    for report in reports:
        assert sum(report["phase_seconds"].values()) == pytest.approx(report["elapsed_seconds"])


@pytest.mark.full
@pytest.mark.parametrize("warm_trainers", [0, 1], ids=["cold", "warm"])
def test_a_stop_before_the_interpreter_has_started_takes_effect(
    nats_server: NatsServer, trainer: Trainer, warm_trainers: int
) -> None:
    trainer.patch.setattr(warm_pool, "LEAST_MEMORY_BYTES", 0)
    trainer.patch.setattr(local, "FIRST_SECONDS", WAIT_SECONDS)
    settings = Settings(
        home=trainer.folder / "home",
        artifacts_url=trainer.url,
        nats_url=nats_server.url,
        warm_trainers=warm_trainers,
        grace_seconds=int(WAIT_SECONDS),  # then the shim kills a trainer that still imports
    )
    spec = trainer.spec()
    name = PodName(spec.job_id, spec.segment)
    launcher = LocalLauncher(settings, FixedClock(), shipped_catalog)
    await_ready(launcher, settings)
    launcher.launch(spec)
    launcher.stop(name)
    eventually(lambda: not living(launcher, name) or nats_server.final_reports(spec), WAIT_SECONDS)
    nats_server.answer(spec)
    eventually(lambda: not living(launcher, name), WAIT_SECONDS)
    launcher.close()
    pod = launcher.poll(name)
    assert pod is not None
    assert pod.exit_code == 0, launcher.log(name, 10_000).decode()
    assert nats_server.reports(spec)[-1]["ending"]["reason"] == "stopped"


@pytest.mark.full
def test_the_end_of_paid_time_saves_a_checkpoint_and_exits_within_the_grace(
    start, nats_server: NatsServer, trainer: Trainer
) -> None:
    paid, grace = 20, START_SECONDS
    spec = trainer.spec({"epochs": 100}, chats(2000), paid_seconds=paid, grace_seconds=grace)
    program = start(spec)
    assert program.wait() == 0, program.log
    final = nats_server.reports(spec)[-1]
    assert final["ending"]["reason"] == "lease_ended"
    assert (final["checkpoint"] or {"step": 0})["step"] == final["step"]
    assert paid <= final["elapsed_seconds"] < paid + grace
    assert final["grace_seconds"] == pytest.approx(final["elapsed_seconds"] - paid, abs=0.002)
    assert "did not acknowledge" in program.log


@pytest.mark.full
def test_a_control_message_extends_the_lease_and_stops(
    start, nats_server: NatsServer, trainer: Trainer
) -> None:
    grace = int(WAIT_SECONDS)  # the program receives the message only after its imports
    spec = trainer.spec({"epochs": 100}, chats(2000), paid_seconds=1, grace_seconds=grace)
    nats_server.control(spec)
    program = start(spec)
    program.await_training()
    nats_server.control(spec, stop=True)
    program.await_line(r"^report .* outcome=stopped")
    nats_server.answer(spec)
    assert program.wait() == 0
    assert nats_server.reports(spec)[-1]["grace_seconds"] == 0.0


@pytest.mark.full
def test_a_failure_reports_its_class_and_keeps_its_traceback_for_the_operator(
    start, nats_server: NatsServer, trainer: Trainer
) -> None:
    spec = trainer.spec({"target_modules": ["c_attn"]})
    program = start(spec)
    program.await_line(r"^report .* outcome=crashed")
    nats_server.answer(spec)
    assert program.wait() == 1
    ending = nats_server.reports(spec)[-1]["ending"]
    assert (ending["reason"], ending["failure"]) == ("crashed", "bad_data")
    assert ending["error_class"] == "TargetModulesNotFound"
    lines = nats_server.log_lines(spec)
    assert [line["n"] for line in lines] == list(range(1, len(lines) + 1))
    (error,) = [line["text"] for line in lines if line["level"] == "ERROR"]
    assert error.startswith("TargetModulesNotFound: ")
    assert "c_attn" in error
    assert not any('File "' in line["text"] for line in lines)
    assert "Traceback (most recent call last)" in program.log


def test_the_watchdog_ends_a_process_that_hangs_beyond_its_grace(start, trainer: Trainer) -> None:
    program = start(trainer.spec(paid_seconds=1, grace_seconds=0))  # the imports take longer
    assert program.wait() == OVERRUN_EXIT_CODE
    assert "overrun elapsed=" in program.log
