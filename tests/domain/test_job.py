"""Job: segments one at a time, progress once, three relaunches, stale reports refused."""

from __future__ import annotations

import pytest

from domain.errors import StaleSegment
from domain.hyperparameters import Hyperparameters
from domain.job import RELAUNCH_LIMIT, Job, JobStatus, SegmentEnd
from tests.domain.conftest import NOW
from tests.domain.examples import happened, job


def running(segment: int = 1) -> Job:
    given = job()
    for number in range(1, segment + 1):
        given.allocate_segment(number)
        given.start_pod(number, f"pod-{number}", NOW)
        given.start_training(number, 0, 30, 100, 5)
        if number < segment:
            given.end_segment(number, SegmentEnd.STOPPED, 10)
    given.collect_events()
    return given


def save_checkpoint(given: Job, segment: int, step: int, elapsed_seconds: int = 10) -> None:
    given.save_checkpoint(
        segment,
        step=step,
        train_loss=1.5,
        elapsed_seconds=elapsed_seconds,
        ref=f"checkpoints/{segment}/{step}",
        manifest_sha256="c" * 64,
        total_bytes=1000,
    )


def complete(given: Job, segment: int) -> None:
    given.start_evaluation(segment, 30)
    given.complete_evaluation(segment, 3.0, 2.0, 5, 400)
    given.register(segment, "adapter", "a" * 64)
    given.end_segment(segment, SegmentEnd.COMPLETED, 90)


def test_an_approved_job_needs_its_first_segment() -> None:
    given = job()
    assert given.status is JobStatus.TRAINING
    assert given.next_segment == 1


def test_a_job_from_gpu_to_registered() -> None:
    given = running()
    complete(given, 1)
    assert happened(given) == [
        "EvaluationStarted",
        "EvaluationCompleted",
        "Registered",
        "SegmentEnded",
    ]
    assert given.status is JobStatus.REGISTERED
    assert given.model == "ft:tiny:22222222"
    assert given.next_segment is None


def test_every_report_may_come_twice() -> None:
    given = running()
    given.start_pod(1, "pod-1", NOW)
    given.start_training(1, 0, 30, 100, 5)
    save_checkpoint(given, 1, 10)
    save_checkpoint(given, 1, 10)
    save_checkpoint(given, 1, 5)
    given.start_evaluation(1, 30)
    given.start_evaluation(1, 30)
    given.complete_evaluation(1, 3.0, 2.0, 5, 400)
    given.complete_evaluation(1, 3.0, 2.0, 5, 400)
    assert happened(given) == ["CheckpointSaved", "EvaluationStarted", "EvaluationCompleted"]


def test_reports_of_an_older_segment_are_refused() -> None:
    given = running(segment=2)
    with pytest.raises(StaleSegment):
        save_checkpoint(given, 1, 10)
    with pytest.raises(StaleSegment):
        given.end_segment(1, SegmentEnd.CRASHED, 10)
    assert happened(given) == []


def test_a_segment_is_allocated_only_when_it_is_the_next() -> None:
    given = running()
    with pytest.raises(StaleSegment):
        given.allocate_segment(2)
    given.end_segment(1, SegmentEnd.LEASE_ENDED, 300)
    given.allocate_segment(2)
    assert given.segment == 2


def test_a_crash_keeps_the_time_of_the_last_checkpoint_of_its_segment() -> None:
    given = running()
    save_checkpoint(given, 1, 10, elapsed_seconds=42)
    given.end_segment(1, SegmentEnd.CRASHED, 60, error_class="ProcessLost")
    event = given.collect_events()[-1]
    assert isinstance(event, Job.SegmentEnded)
    assert event.kept_seconds == 42
    given.allocate_segment(2)
    given.end_segment(2, SegmentEnd.CRASHED, 5)
    event = given.collect_events()[-1]
    assert isinstance(event, Job.SegmentEnded)
    assert event.kept_seconds == 0, "the checkpoint is not this segment's work"


def test_a_stop_keeps_what_the_last_checkpoint_holds() -> None:
    given = running()
    save_checkpoint(given, 1, 10, elapsed_seconds=42)
    given.end_segment(1, SegmentEnd.STOPPED, 60)
    event = given.collect_events()[-1]
    assert isinstance(event, Job.SegmentEnded)
    assert event.kept_seconds == 42


def test_a_job_is_relaunched_three_times_and_then_fails() -> None:
    given = job()
    for number in range(1, RELAUNCH_LIMIT + 2):
        assert given.status is JobStatus.TRAINING
        given.allocate_segment(number)
        given.end_segment(number, SegmentEnd.CRASHED, 1, error_class="OutOfMemoryError")
    assert happened(given)[-1] == "JobFailed"
    assert given.status is JobStatus.FAILED
    assert given.next_segment is None


def test_endings_that_are_no_crash_do_not_count() -> None:
    given = job()
    for number in range(1, 10):
        given.allocate_segment(number)
        given.end_segment(number, SegmentEnd.LEASE_ENDED, 300)
    assert given.next_segment == 10


def test_hyperparameters_are_read_as_recorded() -> None:
    assert job().plan.lora == Hyperparameters()
