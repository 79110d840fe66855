"""Reports become events of the job, once."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from domain.jobs import events
from domain.jobs.job import JobStatus, SegmentEnd
from domain.training.checkpoint import ModeDifference, RejectionReason, ResumeCertificate
from domain.training.perplexity import perplexity
from infrastructure.artifacts.store import MAX_DOCUMENT_BYTES, Manifest
from infrastructure.training.environment import ENVIRONMENT
from infrastructure.training.reports import Phase, RejectedCheckpoint, Report
from services.scheduler.app import record_all
from services.scheduler.job_history import JobHistory
from services.scheduler.launchers.launcher import PodName
from services.scheduler.segments import Segments
from tests.builders.examples import JOB_ID, STATE, resume_certificate
from tests.builders.history import History
from tests.builders.reports import (
    CHECKPOINT,
    EVALUATION,
    HOME,
    TRAINED_WITH,
    adapter_ref,
    completed,
    completed_resume,
    failed,
    report,
    store_adapter,
    training,
)
from tests.services.scheduler.conftest import Scheduler

NAME = PodName(JOB_ID, 1)
SAVED = f"{HOME}/checkpoints/segment-1"


@pytest.fixture
def life(scheduler: Scheduler) -> list[Report]:
    """The reports of a segment from its start to its end."""
    adapter, saved = store_adapter(scheduler.artifacts, segment=1), {"checkpoint": CHECKPOINT}
    return [
        report(1, Phase.MODEL_LOAD),
        training(2),
        training(3, step=10, **saved),
        report(4, Phase.EVALUATION, step=30, **saved),
        report(5, Phase.REGISTER, step=30, evaluation=EVALUATION, **saved),
        completed(6, adapter, segment=1, **saved),
    ]


LIFE = [
    "TrainingStarted",
    "CheckpointSaved",
    "EvaluationStarted",
    "EvaluationCompleted",
    "Registered",
    "SegmentEnded",
    "EstimateScored",
]


@pytest.mark.parametrize("repeats", [1, 2])
def test_reports_of_a_segment_become_its_events(
    history: History, scheduler: Scheduler, running: Segments, life: list[Report], repeats: int
) -> None:
    for each in life:
        for _ in range(repeats):
            running.record(each)
    assert history.topics() == LIFE
    assert history.job.status is JobStatus.REGISTERED
    assert history.pool.held == {}
    assert history.last(events.SegmentEnded).elapsed_seconds == 6
    scheduler.control.answer.assert_called_with(JOB_ID, 1)


def test_a_restarted_scheduler_may_get_all_reports_again(
    history: History, scheduler: Scheduler, running: Segments, life: list[Report]
) -> None:
    restarted = Scheduler(scheduler.log, scheduler.pool, scheduler.settings).segments
    for segments in (running, restarted):
        for each in life:
            segments.record(each)
    assert history.topics() == LIFE


def test_the_last_report_alone_is_sufficient(
    history: History, running: Segments, life: list[Report]
) -> None:
    running.record(life[-1])
    assert history.topics() == LIFE


def test_a_foreign_report_is_dropped(
    history: History, scheduler: Scheduler, running: Segments
) -> None:
    foreign = CHECKPOINT.model_copy(update={"ref": "jobs/another/checkpoints/step-1"})
    other_account = {"account_id": JOB_ID}
    for each in (
        training(1, checkpoint=foreign),
        training(2, checkpoint=CHECKPOINT, earlier=(foreign,)),
        training(2, checkpoint=CHECKPOINT).model_copy(update=other_account),
        failed(3).model_copy(update=other_account),
    ):
        running.record(each)
    assert history.job.checkpoints == ()
    assert not running.heard_of(NAME)
    scheduler.control.answer.assert_not_called()


def test_a_failing_report_does_not_block_later_ones(
    history: History, running: Segments, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, failing = running.record, ValueError("poison")

    def recorded(each: Report) -> None:
        if each.n == 1:
            raise failing
        record(each)

    monkeypatch.setattr(running, "record", recorded)
    sent = [training(1), training(2, checkpoint=CHECKPOINT)]
    messages = ["nonsense", *(each.model_dump(mode="json") for each in sent)]
    failing = TimeoutError("the bus is away")
    with pytest.raises(TimeoutError):
        record_all(running, messages)
    assert history.job.checkpoints == ()
    failing = ValueError("poison")
    record_all(running, messages)
    assert history.job.checkpoints.newest is not None


def test_values_that_read_models_reject_become_no_events() -> None:
    sent = training(outcome=SegmentEnd.CRASHED, error_class="a\0b")
    received = Report.model_validate_json(sent.model_dump_json())
    assert received.ending is not None
    assert received.ending.error_class == "a\ufffdb"
    unknown = CHECKPOINT.model_dump() | {"train_loss": float("nan")}
    invalid: list[dict[str, Any]] = [
        {"step": 2**31},
        {"step": -1},
        {"grace_seconds": 1e12},
        {"segment": 2**31},
        {"checkpoint": unknown},
    ]
    for fields in invalid:
        with pytest.raises(ValidationError):
            training(**fields)


def test_a_report_of_an_older_segment_is_refused_and_answered(
    history: History, scheduler: Scheduler, running: Segments
) -> None:
    running.lose(NAME, 10, None)
    history.allocate_segment(2)
    version = history.job.version
    running.record(training(1, checkpoint=CHECKPOINT))
    running.record(training(2, outcome=SegmentEnd.STOPPED))
    assert history.job.version == version
    scheduler.control.answer.assert_called_once_with(JOB_ID, 1)


def test_a_report_of_an_unknown_job_is_answered(scheduler: Scheduler) -> None:
    scheduler.segments.record(training(outcome=SegmentEnd.STOPPED))
    scheduler.control.answer.assert_called_once_with(JOB_ID, 1)


def test_an_evaluation_is_recorded_with_peak_memory(history: History, running: Segments) -> None:
    running.record(report(1, Phase.EVALUATION, step=30))
    running.record(report(2, Phase.REGISTER, evaluation=EVALUATION, peak_memory_bytes=10**9))
    scored = history.last(events.EvaluationCompleted)
    assert (scored.accuracy_before, scored.accuracy_after) == (0.4, 0.55)
    assert scored.perplexity_after == perplexity(2.0)
    assert scored.peak_memory_bytes == 10**9


def crash(history: History, steps: tuple[int, ...], **fields: Any) -> None:
    """The first segment saves and crashes. The second has a pod."""
    history.run_until("training")
    for step in steps:
        history.save_checkpoint(1, step, 5 * step, ref=f"{SAVED}/step-{step}", **fields)
    history.end_segment(1, SegmentEnd.CRASHED, 50)
    history.allocate_segment(2)
    history.start_pod(2)


def certificate(**fields: Any) -> ResumeCertificate:
    return resume_certificate(2, f"{SAVED}/step-2", **({"state": STATE} | fields))


def test_rejections_certificate_and_checkpoint_are_recorded_in_this_order(
    history: History, scheduler: Scheduler
) -> None:
    crash(history, (2, 4))
    difference = ModeDifference(setting="threads", saved="2", now="1")
    saved = CHECKPOINT.model_copy(update={"segment": 2, "state": STATE, "eval_loss": 1.25})
    rejected = RejectedCheckpoint(ref=f"{SAVED}/step-4", reason=RejectionReason.CORRUPT)
    for n in (1, 2):
        scheduler.segments.record(
            training(
                n,
                segment=2,
                step=10,
                rejected=(rejected,),
                resumed=certificate(differences=(difference,)),
                checkpoint=saved,
            )
        )
    assert history.topics()[-5:] == [
        *("PodStarted", "CheckpointRejected", "ResumeCertified"),
        *("TrainingStarted", "CheckpointSaved"),
    ]
    first, last = history.job.checkpoints
    assert (first.step, last.step, last.state, last.eval_loss) == (2, 10, STATE, 1.25)


def test_a_refused_certificate_keeps_the_rest_of_its_report(
    history: History, scheduler: Scheduler
) -> None:
    crash(history, (2,), state=STATE)
    other = certificate(state=STATE.model_copy(update={"weights": "5" * 64}))
    scheduler.segments.record(training(segment=2, step=2, resumed=other))
    assert history.topics()[-2:] == ["PodStarted", "TrainingStarted"]
    (resume,) = JobHistory(history.events()).resumes
    assert not resume.certified


def test_the_next_report_includes_checkpoints_of_lost_reports(
    history: History, running: Segments
) -> None:
    ten, twenty, thirty, forty = (
        CHECKPOINT.model_copy(update={"step": step, "ref": f"{SAVED}/step-{step}"})
        for step in (10, 20, 30, 40)
    )
    running.record(training(1, checkpoint=ten))
    for n in (2, 3):
        running.record(training(n, earlier=(ten, twenty, thirty), checkpoint=forty))
    assert [each.step for each in history.events(events.CheckpointSaved)] == [10, 20, 30, 40]


def test_a_huge_environment_of_a_trainer_is_not_read(
    scheduler: Scheduler, history: History
) -> None:
    history.resume_after_a_crash(certified=True)
    huge = TRAINED_WITH.model_dump_json().encode() + b" " * MAX_DOCUMENT_BYTES
    adapter = scheduler.artifacts.add_files(
        adapter_ref(2), store_adapter(scheduler.artifacts), {ENVIRONMENT: huge}
    )
    scheduler.segments.record(completed_resume(adapter))
    end = history.last(events.SegmentEnded)
    assert (end.reason, end.error_class) == (SegmentEnd.CRASHED, "ArtifactCorrupt")


@pytest.mark.parametrize(
    ("manifest", "error_class"),
    [
        (Manifest(files=()).content, "ArtifactCorrupt"),
        (b'{"files": [', "ArtifactCorrupt"),
        (None, "FileNotFoundError"),
    ],
    ids=["another", "invalid", "missing"],
)
def test_a_changed_adapter_counts_as_a_crash(
    history: History,
    scheduler: Scheduler,
    running: Segments,
    life: list[Report],
    manifest: bytes | None,
    error_class: str,
) -> None:
    ref = f"{adapter_ref(1)}/manifest.json"
    if manifest is None:
        scheduler.artifacts.delete(ref)
    else:
        scheduler.artifacts.put(ref, manifest)
    running.record(life[-1])
    end = history.last(events.SegmentEnded)
    assert (end.reason, end.error_class) == (SegmentEnd.CRASHED, error_class)
    assert "Registered" not in history.topics()
    assert history.job.next_segment == 2
    scheduler.control.answer.assert_called_once_with(JOB_ID, 1)


def test_completion_without_an_adapter_counts_as_a_crash(
    history: History, running: Segments
) -> None:
    running.record(report(9, Phase.REGISTER, evaluation=EVALUATION, outcome=SegmentEnd.COMPLETED))
    assert history.last(events.SegmentEnded).reason is SegmentEnd.CRASHED


def test_completion_before_a_pause_registers_the_model(
    history: History, running: Segments, life: list[Report]
) -> None:
    history.pause()
    running.record(life[-1])
    assert history.job.status is JobStatus.REGISTERED


def test_completion_after_a_cancel_registers_nothing(
    history: History, scheduler: Scheduler, running: Segments, life: list[Report]
) -> None:
    history.cancel()
    running.record(life[-1])
    assert history.topics()[-2:] == ["SegmentEnded", "JobCancelled"]
    assert history.last(events.SegmentEnded).reason is SegmentEnd.COMPLETED
    scheduler.control.answer.assert_called_once_with(JOB_ID, 1)
