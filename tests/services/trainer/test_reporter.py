"""Reports, log lines and control messages with a real server that restarts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import pytest
from nats.js import JetStreamContext

from domain.jobs.lifecycle import SegmentEnd
from domain.training.checkpoint import SavedCheckpoint
from domain.training.phases import Phase
from infrastructure.artifacts.store import Artifacts
from infrastructure.bus.streams import TELEMETRY
from infrastructure.training.reports import (
    FINAL_REPORT,
    Report,
    SegmentSpec,
    stored_report_ref,
)
from services.trainer.clock import SegmentClock
from services.trainer.lease import Lease
from services.trainer.reporter import Reporter
from services.trainer.stored_report import StoredReport
from services.trainer.unsent import Unsent
from tests.builders.reports import CHECKPOINT, step_of
from tests.polling import eventually
from tests.services.trainer.program import ISSUER, NatsServer
from tests.services.trainer.segments import Trainer, resuming


class Reporting:
    """A segment with a reporter and the lease that it updates."""

    def __init__(self, server: NatsServer, spec: SegmentSpec, directory: Path) -> None:
        self.server, self.spec, self.directory = server, spec, directory
        self.lease = Lease(SegmentClock(0.0), spec.paid_seconds, spec.grace_seconds)

    @contextmanager
    def reporter(self) -> Iterator[Reporter]:
        with Reporter(self.spec, self.lease, self.server.url, self.directory) as reporter:
            yield reporter

    @property
    def reports(self) -> list[dict]:
        return self.server.reports(self.spec)

    @property
    def finals(self) -> list[dict]:
        return self.server.final_reports(self.spec)

    @property
    def log_texts(self) -> list[str]:
        return [line["text"] for line in self.server.log_lines(self.spec)]


@pytest.fixture
def reporting(nats_server: NatsServer, trainer: Trainer) -> Reporting:
    return Reporting(nats_server, trainer.spec(), trainer.folder)


def finish(reporter: Reporter) -> Thread:
    """Send the final report from a thread, which ends when it is acknowledged."""
    ending = Thread(target=reporter.finish, args=(SegmentEnd.COMPLETED,))
    ending.start()
    return ending


def test_heartbeats_are_cumulative_numbered_and_printed(
    reporting: Reporting, capfd: pytest.CaptureFixture[str]
) -> None:
    with reporting.reporter() as reporter:
        reporter.enter(Phase.TRAINING)
        reporter.update(step=3, train_loss=1.5)
        eventually(lambda: len(reporting.reports) >= 3)
    sent = reporting.reports
    assert [report["n"] for report in sent] == list(range(1, len(sent) + 1))
    elapsed = [report["elapsed_seconds"] for report in sent]
    assert elapsed == sorted(elapsed)
    assert sent[-1]["step"] == 3
    assert set(sent[-1]["phase_seconds"]) == {"image_pull", "training"}
    printed = [line for line in capfd.readouterr().out.splitlines() if line.startswith("report")]
    acknowledged = [f"report n={r['n']} elapsed={r['elapsed_seconds']:.3f}" for r in sent]
    assert [" ".join(line.split()[:3]) for line in printed] == acknowledged[: len(printed)]
    assert len(printed) >= len(sent) - 1  # the last may not be acknowledged in time


def test_an_urgent_update_does_not_wait_for_the_heartbeat(
    nats_server: NatsServer, trainer: Trainer
) -> None:
    slow = Reporting(nats_server, trainer.spec(heartbeat_seconds=600.0), trainer.folder)
    with slow.reporter() as reporter:
        eventually(lambda: slow.reports)
        reporter.enter(Phase.EVALUATION)
        eventually(lambda: slow.reports[-1]["phase"] == "evaluation")


def test_the_final_report_repeats_unchanged_until_it_is_answered(reporting: Reporting) -> None:
    with reporting.reporter() as reporter:
        ending = finish(reporter)
        eventually(lambda: len(reporting.finals) > 1)
        assert ending.is_alive()
        reporting.server.answer(reporting.spec)
        ending.join(60)
    finals = reporting.finals
    assert len({report["elapsed_seconds"] for report in finals}) == 1
    numbers = [report["n"] for report in finals]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_the_thread_ends_with_the_block_whatever_it_does(reporting: Reporting) -> None:
    for moment in range(40):
        with reporting.reporter() as reporter:
            time.sleep(moment / 2000)
            reporter.update(now=True)
        eventually(lambda: "reporter" not in {thread.name for thread in threading.enumerate()})


def test_an_answer_without_a_final_report_ends_nothing(reporting: Reporting) -> None:
    reporting.server.control(reporting.spec, answered=True, paid_seconds=1000)
    with reporting.reporter():
        eventually(lambda: reporting.lease.paid_seconds == 1000)
        assert reporting.lease.outcome is None
        assert eventually(lambda: reporting.reports)[-1]["ending"] is None


def test_the_last_control_message_applies_at_start_and_later_ones_follow(
    reporting: Reporting,
) -> None:
    reporting.server.control(reporting.spec, paid_seconds=400)
    with reporting.reporter():
        eventually(lambda: reporting.lease.paid_seconds == 400)
        reporting.server.control(reporting.spec, paid_seconds=500, stop=True)
        eventually(lambda: reporting.lease.outcome is SegmentEnd.STOPPED)
        assert reporting.lease.paid_seconds == 500


def test_nothing_is_lost_while_nats_is_down(reporting: Reporting) -> None:
    server = reporting.server
    server.stop()
    try:
        with reporting.reporter() as reporter:
            reporter.log("one")
            reporter.measure(step_of(reporting.spec, 1, 9))
            server.start()
            eventually(lambda: reporting.reports)
            server.stop()
            reporter.log("two\nthree", "ERROR")
            reporter.measure(step_of(reporting.spec, 2, 9))
            reporter.update(now=True, step=2)
            ending = finish(reporter)
            server.start()
            final = eventually(lambda: reporting.finals)[0]
            server.control(reporting.spec, answered=True, paid_seconds=301)
            ending.join(60)
            assert not ending.is_alive()
    finally:
        server.start()
    assert final["step"] == 2
    assert reporting.lease.paid_seconds == 301
    assert reporting.log_texts == ["one", "two", "three"]
    assert [message["step"] for message in server.steps(reporting.spec)] == [1, 2]
    numbers = [report["n"] for report in reporting.reports]
    assert numbers == sorted(set(numbers))


def test_an_early_acknowledgement_leaves_time_for_the_last_metrics(reporting: Reporting) -> None:
    reporting.server.answer(reporting.spec)
    with reporting.reporter() as reporter:
        for step in range(1, 301):  # more than a batch of the outbox
            reporter.measure(step_of(reporting.spec, step, 300))
        assert reporter.finish(SegmentEnd.COMPLETED)
    assert [each["step"] for each in reporting.server.steps(reporting.spec)] == [*range(1, 301)]


def test_the_next_segment_sends_metrics_that_this_one_did_not_send(reporting: Reporting) -> None:
    server = reporting.server
    with reporting.reporter() as reporter:
        reporter.measure(step_of(reporting.spec, 1, 9))
        eventually(lambda: reporter.unsent == Unsent())
        server.stop()
        try:
            reporter.measure(step_of(reporting.spec, 2, 9))
            reporter.log("Not a metric.")
            left = reporter.unsent
        finally:
            server.start()
    assert [each.step for each in left.steps] == [2]
    left.write(reporting.directory)
    next_one = Reporting(server, resuming(reporting.spec), reporting.directory)
    with next_one.reporter() as reporter:
        reporter.resend(Unsent.read(reporting.directory))
        eventually(lambda: reporter.unsent == Unsent())
    sent = {(each["segment"], each["step"]) for each in server.steps(reporting.spec)}
    assert {(1, 1), (2, 2)} <= sent


def test_a_report_lists_the_last_two_checkpoints_and_the_best(reporting: Reporting) -> None:
    """Each report replaces the previous one."""
    losses = {10: 2.0, 20: 1.5, 30: 1.8, 40: None, 50: 1.9}
    saved = [
        CHECKPOINT.model_copy(update={"step": step, "ref": f"step-{step}", "eval_loss": loss})
        for step, loss in losses.items()
    ]

    def last() -> list[dict]:
        return [r for r in reporting.reports if (r["checkpoint"] or {}).get("step") == 50]

    with reporting.reporter() as reporter:
        for each in saved:
            reporter.saved(each)
        earlier = eventually(last)[0]["earlier"]
    assert [SavedCheckpoint.model_validate(each) for each in earlier] == [saved[1], saved[3]]


def test_the_outbox_is_bounded_and_drops_the_oldest(
    reporting: Reporting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.trainer.reporter.OUTBOX_MESSAGES", 3)
    reporter = Reporter(reporting.spec, reporting.lease, reporting.server.url, reporting.directory)
    for number in range(5):
        reporter.log(str(number))
    with reporter:
        eventually(lambda: reporting.log_texts == ["2", "3", "4"])


def test_two_threads_write_the_final_report_in_turn(
    reporting: Reporting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The segment ends while the checkpoint thread writes, for which training does not wait."""
    renaming, updated, finished = Event(), Event(), Event()
    errors, rename = list[str](), Path.rename

    def rename_slowly(path: Path, target: Path) -> Path:
        first = not renaming.is_set()
        renaming.set()
        if first and not updated.wait(60):
            errors.append("training waited for the disk")
        if first:
            finished.wait(0.3)  # never happens, because the final report waits for this file
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", rename_slowly)
    reporting.server.answer(reporting.spec)
    with reporting.reporter() as reporter:
        saving = Thread(target=reporter.saved, args=[CHECKPOINT])
        saving.start()
        assert renaming.wait(60)
        reporter.update(step=10)
        updated.set()
        reporter.finish(SegmentEnd.COMPLETED)
        finished.set()
        saving.join(60)
    assert errors == []
    final = Report.model_validate_json((reporting.directory / FINAL_REPORT).read_text())
    assert final.ending is not None
    assert (final.ending.reason, final.checkpoint) == (SegmentEnd.COMPLETED, CHECKPOINT)


def test_a_full_disk_does_not_delay_reports(
    nats_server: NatsServer, trainer: Trainer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither that of a checkpoint nor the final one."""
    full = Reporting(nats_server, trainer.spec(), trainer.folder / "missing")
    with full.reporter() as reporter:
        reporter.saved(CHECKPOINT)
        nats_server.answer(full.spec)
        assert reporter.finish(SegmentEnd.STOPPED)
    last = full.reports[-1]
    assert (last["ending"]["reason"], last["checkpoint"]["step"]) == ("stopped", 10)
    assert "FileNotFoundError" in capsys.readouterr().out


@pytest.mark.full
def test_an_unanswered_final_report_is_stored_before_the_exit(
    reporting: Reporting, tmp_path: Path
) -> None:
    """Without NATS, a scheduler on another machine reads it from the artifact store."""
    url = (tmp_path / "store").as_uri()
    stored = StoredReport(url, reporting.spec)
    parts = (reporting.spec, reporting.lease, "nats://127.0.0.1:1", reporting.directory)
    with Reporter(*parts, stored) as reporter:
        assert not reporter.finish(SegmentEnd.STOPPED)
    ref = stored_report_ref(reporting.spec.checkpoint_prefix)
    report = Report.model_validate_json(Artifacts(url).get(ref))
    assert report.ending is not None
    assert report.ending.reason is SegmentEnd.STOPPED


@pytest.mark.full
def test_reports_continue_with_a_renewed_jwt(reporting: Reporting) -> None:
    spec, server = reporting.spec, reporting.server
    name = (spec.account_id, spec.job_id, spec.segment)
    server.control(spec, paid_seconds=777, jwt=ISSUER.issue(*name).jwt)
    expires_at = time.time() + 8
    issued = replace(ISSUER, valid_seconds=8.0).issue(*name)
    reporting.spec = spec.model_copy(update={"credentials": issued})
    with reporting.reporter():
        eventually(lambda: reporting.lease.paid_seconds == 777)
        eventually(lambda: time.time() > expires_at + 1)
        before = len(reporting.reports)
        eventually(lambda: len(reporting.reports) > before + 3)


def test_a_report_does_not_wait_for_refused_log_lines(reporting: Reporting) -> None:
    reporting.server.ask(lambda js: js.delete_stream(TELEMETRY))
    with reporting.reporter() as reporter:
        reporter.log("the last line")
        ending = finish(reporter)
        eventually(lambda: reporting.finals)
        reporting.server.answer(reporting.spec)
        ending.join(60)
    reporting.server.provision()


def test_another_segment_cannot_suppress_reports(reporting: Reporting) -> None:
    """It can send any ID, but the server drops duplicates of all segments together."""
    spec, seen = reporting.spec, len(reporting.reports)

    async def guess(js: JetStreamContext) -> None:
        for n in range(100):
            headers = {"Nats-Msg-Id": f"{spec.job_id}:{spec.segment}:{n}"}
            await js.publish("reports.a.b.1", b"{}", headers=headers)

    reporting.server.ask(guess)
    with reporting.reporter():
        eventually(lambda: len(reporting.reports) > seen)
        assert reporting.reports[seen]["n"] == 1
