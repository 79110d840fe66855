"""Reports become events of the job, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from domain.core.event_log import EventLog
from domain.jobs import events
from domain.jobs.job import Job, JobStatus, SegmentEnd
from domain.training.perplexity import perplexity
from infrastructure.artifacts import Artifacts, Manifest
from infrastructure.reports import Phase, Report
from infrastructure.settings import Settings
from services.scheduler.app import record_all
from services.scheduler.launchers.launcher import PodName
from services.scheduler.segments import Segments
from tests.builders.commands import FixedClock
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.builders.history import History
from tests.builders.reports import (
    CHECKPOINT,
    EVALUATION,
    failed,
    last_end,
    report,
    topics,
)
from tests.services.scheduler.conftest import NotedControl
from tests.services.scheduler.fake_launcher import FakeLauncher

ADAPTER = f"jobs/{ACCOUNT_ID}/{JOB_ID}/adapter/segment-1"
NAME = PodName(JOB_ID, 1)


@pytest.fixture
def adapter(artifacts: Artifacts, tmp_path: Path) -> Manifest:
    """The adapter that the trainer stored."""
    directory = tmp_path / "adapter"
    directory.mkdir()
    (directory / "adapter_model.safetensors").write_bytes(b"weights")
    return artifacts.put_directory(ADAPTER, directory)


def whole_life(adapter: Manifest) -> list[Report]:
    """A segment's cumulative reports."""
    said: dict[str, Any] = {}
    life = []
    for n, (phase, news) in enumerate(
        [
            (Phase.MODEL_LOAD, {}),
            (Phase.TRAINING, {}),
            (Phase.TRAINING, {"step": 10, "checkpoint": CHECKPOINT}),
            (Phase.EVALUATION, {"step": 30}),
            (Phase.REGISTER, {"evaluation": EVALUATION}),
            (
                Phase.REGISTER,
                {
                    "outcome": SegmentEnd.COMPLETED,
                    "adapter_ref": ADAPTER,
                    "adapter_manifest_sha256": adapter.sha256,
                },
            ),
        ],
        1,
    ):
        said |= news
        life.append(report(n, phase, **said))
    return life


LIFE = [
    "TrainingStarted",
    "CheckpointSaved",
    "EvaluationStarted",
    "EvaluationCompleted",
    "Registered",
    "SegmentEnded",
    "EstimateScored",
]


def test_reports_of_a_segment_become_its_events(
    log: EventLog, history: History, running: Segments, control: NotedControl, adapter: Manifest
) -> None:
    for each in whole_life(adapter):
        running.record(each)
    assert topics(log) == LIFE
    assert history.job.status is JobStatus.REGISTERED
    assert history.pool.held == {}
    assert control.answered == [(JOB_ID, 1)]
    assert last_end(log).elapsed_seconds == 6


def test_a_foreign_report_is_dropped(
    log: EventLog, running: Segments, control: NotedControl
) -> None:
    foreign = CHECKPOINT.model_copy(update={"ref": "jobs/another/checkpoints/step-1"})
    running.record(report(1, Phase.TRAINING, checkpoint=foreign))
    running.record(report(2, Phase.TRAINING, checkpoint=CHECKPOINT, earlier=(foreign,)))
    other = report(2, Phase.TRAINING, checkpoint=CHECKPOINT)
    running.record(other.model_copy(update={"account_id": JOB_ID}))
    assert log.load(Job, JOB_ID).checkpoints == ()
    running.record(failed(3).model_copy(update={"account_id": JOB_ID}))
    assert not running.heard_of(NAME)
    assert control.answered == [], "it acknowledges only a final report"


def test_a_failing_report_does_not_block_later_ones(
    log: EventLog, running: Segments, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, failing = running.record, ValueError("poison")

    def recorded(each: Report) -> None:
        if each.n == 1:
            raise failing
        record(each)

    monkeypatch.setattr(running, "record", recorded)
    sent = [report(1, Phase.TRAINING), report(2, Phase.TRAINING, checkpoint=CHECKPOINT)]
    messages = ["nonsense", *(each.model_dump(mode="json") for each in sent)]
    failing = TimeoutError("the bus is away")
    with pytest.raises(TimeoutError):
        record_all(running, messages)
    assert log.load(Job, JOB_ID).checkpoints == ()
    failing = ValueError("poison")
    record_all(running, messages)
    assert log.load(Job, JOB_ID).checkpoints.newest is not None


def test_values_that_read_models_reject_become_no_events() -> None:
    sent = report(1, Phase.TRAINING, outcome=SegmentEnd.CRASHED, error_class="a\0b")
    received = Report.model_validate_json(sent.model_dump_json())
    assert received.ending is not None
    assert received.ending.error_class == "a\ufffdb"
    for fields in ({"step": 2**31}, {"step": -1}, {"grace_seconds": 1e12}, {"segment": 2**31}):
        with pytest.raises(ValidationError):
            report(1, Phase.TRAINING, **fields)
    unknown = CHECKPOINT.model_dump() | {"train_loss": float("nan")}
    with pytest.raises(ValidationError):
        report(1, Phase.TRAINING, checkpoint=unknown)


def test_repeated_reports_change_nothing(
    log: EventLog, running: Segments, control: NotedControl, adapter: Manifest
) -> None:
    for each in whole_life(adapter):
        running.record(each)
        running.record(each)
    assert topics(log) == LIFE
    assert set(control.answered) == {(JOB_ID, 1)}


def test_a_restarted_scheduler_may_get_all_reports_again(
    log: EventLog,
    running: Segments,
    artifacts: Artifacts,
    launcher: FakeLauncher,
    control: NotedControl,
    settings: Settings,
    adapter: Manifest,
) -> None:
    life = whole_life(adapter)
    for each in life:
        running.record(each)
    anew = Segments(log, FixedClock(), artifacts, launcher, control, settings)  # type: ignore[arg-type]
    for each in life:
        anew.record(each)
    assert topics(log) == LIFE


def test_the_last_report_alone_is_sufficient(
    log: EventLog, running: Segments, adapter: Manifest
) -> None:
    running.record(whole_life(adapter)[-1])
    assert topics(log) == LIFE


def test_a_report_of_an_older_segment_is_refused_and_answered(
    log: EventLog, history: History, running: Segments, control: NotedControl
) -> None:
    running.lose(NAME, 10, None)
    history.allocate_segment(2)
    version = history.job.version
    running.record(report(1, Phase.TRAINING, checkpoint=CHECKPOINT))
    running.record(report(2, Phase.TRAINING, outcome=SegmentEnd.STOPPED))
    assert history.job.version == version
    assert control.answered == [(JOB_ID, 1)], "so that it stops repeating itself"


def test_a_report_of_an_unknown_job_is_answered(segments: Segments, control: NotedControl) -> None:
    segments.record(report(1, Phase.TRAINING, outcome=SegmentEnd.STOPPED))
    assert control.answered == [(JOB_ID, 1)]


@pytest.mark.parametrize("reason", [SegmentEnd.STOPPED, SegmentEnd.LEASE_ENDED, SegmentEnd.CRASHED])
def test_an_ending_has_its_reason_and_its_times(
    log: EventLog, running: Segments, reason: SegmentEnd
) -> None:
    running.record(
        report(9, Phase.TRAINING, outcome=reason, elapsed_seconds=309.9, grace_seconds=9.9)
    )
    end = last_end(log)
    assert (end.reason, end.elapsed_seconds, end.grace_seconds) == (reason, 309, 9)


def _another(artifacts: Artifacts) -> None:
    artifacts.put(f"{ADAPTER}/manifest.json", Manifest(files=()).content)


def _garbled(artifacts: Artifacts) -> None:
    artifacts.put(f"{ADAPTER}/manifest.json", b'{"files": [')


def _gone(artifacts: Artifacts) -> None:
    artifacts.delete(f"{ADAPTER}/manifest.json")


@pytest.mark.parametrize(
    ("corrupt", "error_class"),
    [
        (_another, "ArtifactCorrupt"),
        (_garbled, "ArtifactCorrupt"),
        (_gone, "FileNotFoundError"),
    ],
)
def test_a_changed_adapter_counts_as_a_crash(
    log: EventLog,
    history: History,
    running: Segments,
    control: NotedControl,
    artifacts: Artifacts,
    adapter: Manifest,
    corrupt: Any,
    error_class: str,
) -> None:
    *life, final = whole_life(adapter)
    for each in life:
        running.record(each)
    corrupt(artifacts)
    running.record(final)
    end = last_end(log)
    assert (end.reason, end.error_class) == (SegmentEnd.CRASHED, error_class)
    assert "Registered" not in topics(log)
    assert history.job.next_segment == 2
    assert control.answered == [(JOB_ID, 1)]


def test_an_evaluation_is_recorded_with_peak_memory(log: EventLog, running: Segments) -> None:
    running.record(report(1, Phase.EVALUATION, step=30))
    running.record(report(2, Phase.REGISTER, evaluation=EVALUATION, peak_memory_bytes=10**9))
    scored = list(log.events.get(JOB_ID))[-1]
    assert isinstance(scored, events.EvaluationCompleted)
    assert (scored.accuracy_before, scored.accuracy_after) == (0.4, 0.55)
    assert scored.perplexity_after == perplexity(2.0)
    assert scored.peak_memory_bytes == 10**9


def test_completion_without_an_adapter_counts_as_a_crash(log: EventLog, running: Segments) -> None:
    running.record(report(9, Phase.REGISTER, evaluation=EVALUATION, outcome=SegmentEnd.COMPLETED))
    assert last_end(log).reason is SegmentEnd.CRASHED


def test_completion_before_a_pause_registers_the_model(
    history: History, running: Segments, adapter: Manifest
) -> None:
    history.pause()
    for each in whole_life(adapter):
        running.record(each)
    assert history.job.status is JobStatus.REGISTERED


def test_completion_after_a_cancel_registers_nothing(
    log: EventLog, history: History, running: Segments, control: NotedControl, adapter: Manifest
) -> None:
    *life, final = whole_life(adapter)
    for each in life:
        running.record(each)
    history.cancel()
    running.record(final)
    assert topics(log)[-3:] == ["CancelRequested", "SegmentEnded", "JobCancelled"]
    assert last_end(log).reason is SegmentEnd.COMPLETED
    assert control.answered == [(JOB_ID, 1)]


def test_a_process_lost_while_pausing_pauses_the_job(history: History, running: Segments) -> None:
    running.record(report(1, Phase.TRAINING, checkpoint=CHECKPOINT))
    history.pause()
    running.lose(NAME, 60, None)
    assert (history.job.status, history.job.step) == (JobStatus.PAUSED, 10)


def test_a_segment_is_lost_once_and_never_after_its_final_report(
    log: EventLog, running: Segments
) -> None:
    running.record(report(9, Phase.TRAINING, outcome=SegmentEnd.STOPPED))
    running.lose(NAME, 60, None)
    running.lose(NAME, 60, None)
    assert topics(log).count("SegmentEnded") == 1


def test_segments_with_reports_are_known(running: Segments) -> None:
    assert not running.heard_of(NAME)
    running.record(report(1, Phase.MODEL_LOAD))
    assert running.heard_of(NAME)
