"""Reports, log lines and control messages with a real server that restarts."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp
from threading import Event, Thread
from typing import Any

import pytest

from domain.jobs.lifecycle import SegmentEnd
from domain.training.checkpoint import SavedCheckpoint
from domain.training.phases import Phase
from infrastructure.bus import TELEMETRY
from infrastructure.reports import (
    FINAL_REPORT,
    Control,
    Report,
    SegmentSpec,
    StepMeasured,
)
from services.trainer.clock import SegmentClock
from services.trainer.lease import Lease
from services.trainer.reporter import Reporter
from tests.polling import eventually
from tests.services.trainer.conftest import SpecMaker
from tests.services.trainer.nats_server import ISSUER, NatsServer

CHECKPOINT = SavedCheckpoint(
    segment=1,
    ref="checkpoints/1/10",
    manifest_sha256="c" * 64,
    step=10,
    train_loss=2.0,
    elapsed_seconds=4,
    total_bytes=9,
)


def reporter_of(spec: SegmentSpec, server: NatsServer) -> tuple[Reporter, Lease]:
    lease = Lease(SegmentClock(0.0), spec.paid_seconds, spec.grace_seconds)
    return Reporter(spec, lease, server.url, Path(mkdtemp())), lease


def reports(server: NatsServer, spec: SegmentSpec) -> list[dict[str, Any]]:
    return server.messages("REPORTS", f"reports.{spec.account_id}.{spec.job_id}.{spec.segment}")


def control(spec: SegmentSpec, **fields: Any) -> Control:
    return Control(job_id=spec.job_id, segment=spec.segment, **{"paid_seconds": 300} | fields)


def measured(spec: SegmentSpec, step: int) -> StepMeasured:
    return StepMeasured(
        account_id=spec.account_id,
        job_id=spec.job_id,
        segment=1,
        step=step,
        total_steps=9,
        train_loss=1.0,
        smoothed_loss=1.0,
        learning_rate=0.1,
        tokens=10,
        tokens_per_second=5.0,
        elapsed_seconds=1.0,
        measured_at=datetime.now(UTC),
    )


@pytest.fixture
def spec(make_spec: SpecMaker) -> SegmentSpec:
    return make_spec()


def test_heartbeats_are_cumulative_numbered_and_printed(
    spec: SegmentSpec, nats_server: NatsServer, capfd: pytest.CaptureFixture[str]
) -> None:
    reporter, _ = reporter_of(spec, nats_server)
    with reporter:
        reporter.enter(Phase.TRAINING)
        reporter.update(step=3, train_loss=1.5)
        eventually(lambda: len(reports(nats_server, spec)) >= 3)
    sent = reports(nats_server, spec)
    assert [report["n"] for report in sent] == list(range(1, len(sent) + 1))
    elapsed = [report["elapsed_seconds"] for report in sent]
    assert elapsed == sorted(elapsed)
    assert sent[-1]["step"] == 3
    assert set(sent[-1]["phase_seconds"]) == {"image_pull", "training"}
    printed = [line for line in capfd.readouterr().out.splitlines() if line.startswith("report")]
    acknowledged = [
        f"report n={report['n']} elapsed={report['elapsed_seconds']:.3f}" for report in sent
    ]
    assert [" ".join(line.split()[:3]) for line in printed] == acknowledged[: len(printed)]
    assert len(printed) >= len(sent) - 1  # the last may have been cut off before its answer


def test_an_urgent_update_does_not_wait_for_the_heartbeat(
    make_spec: SpecMaker, nats_server: NatsServer
) -> None:
    spec = make_spec(heartbeat_seconds=600.0)
    reporter, _ = reporter_of(spec, nats_server)
    with reporter:
        eventually(lambda: reports(nats_server, spec))
        reporter.enter(Phase.EVALUATION)
        eventually(lambda: reports(nats_server, spec)[-1]["phase"] == "evaluation")


def test_the_final_report_repeats_unchanged_until_it_is_answered(
    spec: SegmentSpec, nats_server: NatsServer
) -> None:
    reporter, _ = reporter_of(spec, nats_server)
    with reporter:
        answered: list[bool] = []
        ending = Thread(target=lambda: answered.append(reporter.finish(SegmentEnd.COMPLETED)))
        ending.start()
        finals = eventually(
            lambda: (
                [r for r in reports(nats_server, spec) if r["ending"]][1:]
                and reports(nats_server, spec)
            )
        )
        assert ending.is_alive()
        nats_server.control(control(spec, answered=True))
        ending.join(60)
    assert answered == [True]
    finals = [report for report in reports(nats_server, spec) if report["ending"]]
    assert len({report["elapsed_seconds"] for report in finals}) == 1
    assert [r["n"] for r in finals] == list(range(finals[0]["n"], finals[0]["n"] + len(finals)))


def test_an_answer_to_nothing_ends_nothing(spec: SegmentSpec, nats_server: NatsServer) -> None:
    nats_server.control(control(spec, answered=True, paid_seconds=1000))
    reporter, lease = reporter_of(spec, nats_server)
    with reporter:
        eventually(lambda: lease.paid_seconds == 1000)
        assert lease.outcome is None
        assert eventually(lambda: reports(nats_server, spec))[-1]["ending"] is None


def test_the_last_control_message_applies_at_start_and_later_ones_follow(
    spec: SegmentSpec, nats_server: NatsServer
) -> None:
    nats_server.control(control(spec, paid_seconds=400))
    reporter, lease = reporter_of(spec, nats_server)
    with reporter:
        eventually(lambda: lease.paid_seconds == 400)
        nats_server.control(control(spec, paid_seconds=500, stop=True))
        eventually(lambda: lease.outcome is SegmentEnd.STOPPED)
        assert lease.paid_seconds == 500


def test_nothing_is_lost_while_nats_is_down(spec: SegmentSpec, nats_server: NatsServer) -> None:
    nats_server.stop()
    reporter, lease = reporter_of(spec, nats_server)
    subject = f"{spec.account_id}.{spec.job_id}.{spec.segment}"
    try:
        with reporter:
            reporter.log("one")
            reporter.measure(measured(spec, 1))
            nats_server.start()
            eventually(lambda: reports(nats_server, spec))
            nats_server.stop()
            reporter.log("two\nthree", "ERROR")
            reporter.measure(measured(spec, 2))
            reporter.update(now=True, step=2)
            ending = Thread(target=reporter.finish, args=(SegmentEnd.COMPLETED,))
            ending.start()
            nats_server.start()
            final = eventually(lambda: [r for r in reports(nats_server, spec) if r["ending"]])
            nats_server.control(control(spec, answered=True, paid_seconds=301))
            ending.join(60)
            assert not ending.is_alive()
    finally:
        if not nats_server.runs:
            nats_server.start()
    assert final[0]["step"] == 2
    assert lease.paid_seconds == 301
    lines = nats_server.messages("TELEMETRY", f"logs.{subject}")
    assert [(line["n"], line["text"]) for line in lines] == [(1, "one"), (2, "two"), (3, "three")]
    steps = nats_server.messages("TELEMETRY", f"telemetry.{subject}")
    assert [message["step"] for message in steps] == [1, 2]
    numbers = [report["n"] for report in reports(nats_server, spec)]
    assert numbers == sorted(set(numbers))


def test_a_report_lists_the_checkpoints_that_are_still_needed(
    spec: SegmentSpec, nats_server: NatsServer
) -> None:
    """The last two and the best, because each report replaces the one before."""
    losses = {10: 2.0, 20: 1.5, 30: 1.8, 40: None, 50: 1.9}
    saved = [
        CHECKPOINT.model_copy(update={"step": step, "ref": f"step-{step}", "eval_loss": loss})
        for step, loss in losses.items()
    ]
    reporter, _ = reporter_of(spec, nats_server)
    with reporter:
        for each in saved:
            reporter.saved(each)
        told = eventually(
            lambda: [
                r for r in reports(nats_server, spec) if (r["checkpoint"] or {}).get("step") == 50
            ]
        )
    assert [each["step"] for each in told[0]["earlier"]] == [20, 40]
    assert SavedCheckpoint.model_validate(told[0]["earlier"][0]) == saved[1]


def test_the_outbox_is_bounded_and_drops_the_oldest(
    spec: SegmentSpec, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.trainer.reporter.OUTBOX_MESSAGES", 3)
    reporter, _ = reporter_of(spec, nats_server)
    for number in range(5):
        reporter.log(str(number))
    with reporter:
        subject = f"logs.{spec.account_id}.{spec.job_id}.{spec.segment}"
        lines = eventually(lambda: (got := nats_server.messages("TELEMETRY", subject))[2:] and got)
    assert [line["text"] for line in lines] == ["2", "3", "4"]


def test_two_threads_write_the_final_report_in_turn(
    spec: SegmentSpec,
    nats_server: NatsServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The checkpoint thread is about to rename its file when the segment ends.

    Meanwhile the training loop reports without a wait.
    """
    lease = Lease(SegmentClock(0.0), spec.paid_seconds, spec.grace_seconds)
    renaming, told, ended, errors = Event(), Event(), Event(), []
    rename = Path.rename

    def slowly(path: Path, target: Path) -> Path:
        first = not renaming.is_set()
        renaming.set()
        if first:
            if not told.wait(60):
                errors.append("training waited for the disk")
            ended.wait(0.3)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", slowly)
    nats_server.control(control(spec, answered=True))
    with Reporter(spec, lease, nats_server.url, tmp_path) as reporter:
        saving = Thread(target=reporter.saved, args=[CHECKPOINT])
        saving.start()
        assert renaming.wait(60)
        reporter.update(step=10)
        told.set()
        reporter.finish(SegmentEnd.COMPLETED)
        ended.set()
        saving.join(60)
    assert errors == []
    assert "is not kept" not in capsys.readouterr().out
    word = Report.model_validate_json((tmp_path / FINAL_REPORT).read_text())
    assert (word.ending and word.ending.reason, word.checkpoint) == (
        SegmentEnd.COMPLETED,
        CHECKPOINT,
    )


def test_a_full_disk_does_not_delay_reports(
    nats_server: NatsServer, make_spec: SpecMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the report of a checkpoint nor the final one."""
    spec = make_spec()
    reporter, _ = reporter_of(spec, nats_server)
    reporter._final_report.parent.rmdir()
    with reporter:
        reporter.saved(CHECKPOINT)
        nats_server.control(control(spec, answered=True))
        assert reporter.finish(SegmentEnd.STOPPED)
    last = reports(nats_server, spec)[-1]
    assert (last["ending"]["reason"], last["checkpoint"]["step"]) == ("stopped", 10)
    assert "FileNotFoundError" in capsys.readouterr().out


def test_reports_continue_with_a_renewed_jwt(spec: SegmentSpec, nats_server: NatsServer) -> None:
    name = (spec.account_id, spec.job_id, spec.segment)
    nats_server.control(control(spec, paid_seconds=777, jwt=ISSUER.issue(*name).jwt))
    expires_at = time.time() + 8
    issued = replace(ISSUER, valid_seconds=8.0).issue(*name)
    reporter, lease = reporter_of(spec.model_copy(update={"credentials": issued}), nats_server)
    with reporter:
        eventually(lambda: lease.paid_seconds == 777)
        eventually(lambda: time.time() > expires_at + 1)
        before = len(reports(nats_server, spec))
        eventually(lambda: len(reports(nats_server, spec)) > before + 3)


def test_a_report_does_not_wait_for_refused_log_lines(
    spec: SegmentSpec, nats_server: NatsServer
) -> None:
    nats_server.ask(lambda js: js.delete_stream(TELEMETRY))
    reporter, _ = reporter_of(spec, nats_server)
    with reporter:
        reporter.log("the last line")
        ending = Thread(target=lambda: reporter.finish(SegmentEnd.COMPLETED))
        ending.start()
        eventually(lambda: [r for r in reports(nats_server, spec) if r["ending"]])
        nats_server.control(control(spec, answered=True))
        ending.join(60)
    nats_server.provision()
