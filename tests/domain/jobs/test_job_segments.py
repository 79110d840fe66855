"""A job's segments: one at a time, progress once, stale reports refused, what is kept of each."""

from __future__ import annotations

from datetime import timedelta

import pytest

from domain.core.errors import StaleSegment
from domain.jobs import events
from domain.jobs.failures import FAILURES, FailureClass, MemoryShortage, Payer
from domain.jobs.job import RELAUNCH_LIMIT, Job, JobStatus, SegmentEnd
from domain.training.hyperparameters import Hyperparameters
from domain.training.phases import Phase
from domain.training.training_plan import Order
from tests.builders.examples import (
    ACCOUNT_ID,
    ESTIMATE,
    JOB_ID,
    PLAN,
    complete,
    ending,
    evaluate,
    evaluation_result,
    happened,
    job,
    running,
    save_checkpoint,
)
from tests.domain.conftest import NOW


def test_an_approved_job_needs_its_first_segment() -> None:
    given = job()
    assert given.status is JobStatus.TRAINING
    assert given.next_segment == 1


def test_a_job_from_gpu_to_registered() -> None:
    given = running()
    complete(given, 1)
    assert happened(given) == [
        "CheckpointSaved",
        "EvaluationStarted",
        "EvaluationCompleted",
        "Registered",
        "SegmentEnded",
        "EstimateScored",
    ]
    assert given.status is JobStatus.REGISTERED
    assert given.model is not None
    assert given.model.name == "ft:tiny:222222222222"
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
    given.complete_evaluation(1, evaluation_result(3.0, 2.0, 5, 400))
    given.complete_evaluation(1, evaluation_result(3.0, 2.0, 5, 400))
    assert happened(given) == ["CheckpointSaved", "EvaluationStarted", "EvaluationCompleted"]


def test_reports_of_an_older_segment_are_refused() -> None:
    given = running(segment=2)
    with pytest.raises(StaleSegment):
        save_checkpoint(given, 1, 10)
    with pytest.raises(StaleSegment):
        given.end_segment(1, ending(SegmentEnd.CRASHED, 10))
    assert happened(given) == []


def test_a_segment_is_allocated_only_when_it_is_the_next() -> None:
    given = running()
    with pytest.raises(StaleSegment):
        given.allocate_segment(2)
    given.end_segment(1, ending(SegmentEnd.LEASE_ENDED, 300))
    given.allocate_segment(2)
    assert given.segment == 2


def ended(given: Job) -> events.SegmentEnded:
    """The last ending."""
    return [each for each in given.collect_events() if isinstance(each, events.SegmentEnded)][-1]


def test_a_checkpoint_of_an_earlier_segment_keeps_nothing_of_this_one() -> None:
    given = running()
    save_checkpoint(given, 1, 10, elapsed_seconds=42)
    given.end_segment(1, ending(SegmentEnd.CRASHED, 60))
    assert ended(given).kept_seconds == 42
    given.allocate_segment(2)
    given.end_segment(2, ending(SegmentEnd.CRASHED, 5))
    assert ended(given).kept_seconds == 0


@pytest.mark.parametrize("failure", FailureClass)
def test_the_payer_of_a_failure_decides_what_is_kept(failure: FailureClass) -> None:
    given = running()
    save_checkpoint(given, 1, 10, elapsed_seconds=42)
    given.end_segment(1, ending(SegmentEnd.CRASHED, 60, failure=failure))
    kept = 42 if FAILURES[failure].payer is Payer.PLATFORM else 60
    assert ended(given).kept_seconds == kept


def test_a_stop_by_the_platform_keeps_what_the_last_checkpoint_holds() -> None:
    given = running()
    save_checkpoint(given, 1, 10, elapsed_seconds=42)
    given.end_segment(1, ending(SegmentEnd.STOPPED, 60))
    assert ended(given).kept_seconds == 42


def test_a_stop_that_the_owner_asked_for_keeps_all_its_time() -> None:
    for ask in (Job.pause, lambda job: job.cancel(timedelta(days=30))):
        given = running()
        save_checkpoint(given, 1, 10, elapsed_seconds=42)
        ask(given)
        given.end_segment(1, ending(SegmentEnd.STOPPED, 60))
        assert ended(given).kept_seconds == 60


@pytest.mark.parametrize("reason", [SegmentEnd.COMPLETED, SegmentEnd.LEASE_ENDED])
def test_an_ending_that_lost_nothing_keeps_all_its_time(reason: SegmentEnd) -> None:
    given = running()
    given.end_segment(1, ending(reason, 60))
    assert ended(given).kept_seconds == 60


def test_a_crash_of_no_known_class_is_the_trainers() -> None:
    given = running()
    given.end_segment(1, ending(SegmentEnd.CRASHED, 60, error_class="KeyError"))
    assert ended(given).failure is FailureClass.TRAINER_CRASHED


@pytest.mark.parametrize("failure", [each for each in FailureClass if FAILURES[each].retried])
def test_a_job_is_relaunched_three_times_and_then_fails(failure: FailureClass) -> None:
    given = job()
    for number in range(1, RELAUNCH_LIMIT + 2):
        assert given.status is JobStatus.TRAINING
        given.allocate_segment(number)
        given.end_segment(
            number, ending(SegmentEnd.CRASHED, 1, failure=failure, error_class="OSError")
        )
    failed = given.collect_events()[-1]
    assert isinstance(failed, events.JobFailed)
    assert (failed.failure, failed.error_class) == (failure, "OSError")
    assert given.status is JobStatus.FAILED
    assert given.next_segment is None


@pytest.mark.parametrize("failure", [each for each in FailureClass if not FAILURES[each].retried])
def test_what_would_fail_again_is_not_tried_again(failure: FailureClass) -> None:
    given = running()
    given.end_segment(1, ending(SegmentEnd.CRASHED, 60, failure=failure))
    assert happened(given) == ["SegmentEnded", "JobFailed"]


SHORTAGE = MemoryShortage(
    rows=4, tokens=500, micro_batch_size=4, gradient_accumulation=4, peak_bytes=10**9
)


def run_out_of_memory(given: Job, segment: int, shortage: MemoryShortage | None = SHORTAGE) -> None:
    given.end_segment(
        segment,
        ending(
            SegmentEnd.CRASHED,
            60,
            failure=FailureClass.OUT_OF_MEMORY,
            error_class="MicroBatchTooLarge",
            shortage=shortage,
        ),
    )


def test_a_micro_batch_too_large_for_the_memory_is_halved_once_at_the_platforms_cost() -> None:
    given = running()
    save_checkpoint(given, 1, 10, elapsed_seconds=42)
    run_out_of_memory(given, 1)
    _, end, halved = given.collect_events()
    assert isinstance(end, events.SegmentEnded)
    assert (end.shortage, end.kept_seconds) == (SHORTAGE, 42)
    assert isinstance(halved, events.MicroBatchHalved)
    assert (halved.micro_batch_size, halved.gradient_accumulation) == (2, 8)
    assert given.micro_batch_split == 2
    given.allocate_segment(2)
    run_out_of_memory(given, 2)
    assert happened(given) == ["SegmentAllocated", "SegmentEnded", "JobFailed"]


def test_what_half_the_micro_batch_would_not_help_fails() -> None:
    given = running()
    run_out_of_memory(given, 1, shortage=None)  # the model alone was too large
    assert happened(given) == ["SegmentEnded", "JobFailed"]
    given = running()
    run_out_of_memory(given, 1, SHORTAGE.model_copy(update={"rows": 1}))  # of four, the longest
    assert happened(given) == ["SegmentEnded", "JobFailed"]


def test_short_examples_that_ran_together_are_halved_though_a_micro_batch_is_one() -> None:
    ones = PLAN.model_copy(
        update={"hyperparameters": PLAN.hyperparameters | {"micro_batch_size": 1}}
    )
    given = Job.approve(JOB_ID, ACCOUNT_ID, ones)
    given.allocate_segment(1)
    given.collect_events()
    run_out_of_memory(given, 1)
    _, halved = given.collect_events()
    assert isinstance(halved, events.MicroBatchHalved)
    assert (halved.micro_batch_size, halved.gradient_accumulation) == (1, 4)
    assert given.micro_batch_split == 2


def test_a_job_that_is_to_pause_pauses_with_its_micro_batch_halved() -> None:
    given = running()
    given.pause()
    run_out_of_memory(given, 1)
    assert happened(given) == ["PauseRequested", "SegmentEnded", "MicroBatchHalved", "JobPaused"]


def test_what_was_trained_is_not_trained_again_after_a_crash_in_evaluation() -> None:
    given = running()
    evaluate(given, 1)
    assert given.status is JobStatus.TRAINED_PENDING_REGISTER
    given.end_segment(1, ending(SegmentEnd.CRASHED, 80))
    assert given.status is JobStatus.EVALUATING, "the losses were of an adapter that is lost"
    given.allocate_segment(2)
    given.start_training(2, 30, 30, 100, 5)
    given.start_evaluation(2, 30)
    assert given.status is JobStatus.EVALUATING
    given.complete_evaluation(2, evaluation_result(3.0, 2.0, 5, 400))
    given.register(2, "adapter", "a" * 64)
    assert given.status is JobStatus.REGISTERED


def test_the_score_sums_what_its_owner_paid_for_over_all_segments() -> None:
    given = job()
    given.allocate_segment(1)
    save_checkpoint(given, 1, 10, elapsed_seconds=40)
    given.end_segment(
        1,
        ending(
            SegmentEnd.CRASHED, 60, phase_seconds={Phase.MODEL_LOAD: 10.0, Phase.TRAINING: 50.0}
        ),
    )
    given.allocate_segment(2)
    given.end_segment(2, ending(SegmentEnd.LEASE_ENDED, 35, grace_seconds=5))
    given.allocate_segment(3)
    given.end_segment(3, ending(SegmentEnd.LEASE_ENDED, 0))
    given.allocate_segment(4)
    given.start_training(4, 10, 30, 100, 5)
    evaluate(given, 4)
    given.register(4, "adapter", "a" * 64)
    given.end_segment(4, ending(SegmentEnd.COMPLETED, 50, phase_seconds={Phase.TRAINING: 45.5}))
    scored = given.collect_events()[-1]
    assert isinstance(scored, events.EstimateScored)
    assert (scored.low_seconds, scored.high_seconds) == (120, 156)
    assert (scored.low_micros, scored.high_micros) == (120_000, 156_000)
    assert (scored.actual_seconds, scored.actual_micros) == (40 + 30 + 50, 120_000)
    assert scored.phase_seconds == {Phase.MODEL_LOAD: 10.0, Phase.TRAINING: 95.5}
    assert scored.segments == 3, "the one that took no time was none"


def test_each_segment_is_summed_at_its_own_rate() -> None:
    given = running()
    given.pause()
    given.end_segment(1, ending(SegmentEnd.STOPPED, 10))
    given.resume(None, 7_200_000, "2")
    given.allocate_segment(2)
    given.start_training(2, 0, 30, 100, 5)
    complete(given, 2)
    scored = given.collect_events()[-1]
    assert isinstance(scored, events.EstimateScored)
    assert scored.actual_micros == 10 * 1000 + 90 * 2000


def test_a_job_without_an_estimate_has_no_score() -> None:
    given = Job.approve(JOB_ID, ACCOUNT_ID, PLAN)
    given.allocate_segment(1)
    given.start_training(1, 0, 30, 100, 5)
    complete(given, 1)
    assert happened(given)[-1] == "SegmentEnded"


def test_a_checkpoint_that_got_further_begins_the_count_of_crashes_anew() -> None:
    given = running()
    save_checkpoint(given, 1, 10)
    for number in range(1, RELAUNCH_LIMIT + 1):
        given.end_segment(number, ending(SegmentEnd.CRASHED, 20))
        given.allocate_segment(number + 1)
    save_checkpoint(given, RELAUNCH_LIMIT + 1, 10)
    assert given.crashes == RELAUNCH_LIMIT, "the same step again is no progress"
    save_checkpoint(given, RELAUNCH_LIMIT + 1, 20)
    assert given.crashes == 0
    given.end_segment(RELAUNCH_LIMIT + 1, ending(SegmentEnd.CRASHED, 20))
    assert given.next_segment == RELAUNCH_LIMIT + 2


def postponed(given: Job) -> list[timedelta]:
    """How long each launch since was put off."""
    return [
        each.until - each.timestamp
        for each in given.collect_events()
        if isinstance(each, events.RelaunchPostponed)
    ]


def test_each_launch_after_a_crash_without_progress_waits_longer() -> None:
    given = running()
    for number in range(1, RELAUNCH_LIMIT + 2):
        given.end_segment(number, ending(SegmentEnd.CRASHED, 0, failure=FailureClass.NODE_LOST))
        if given.status is not JobStatus.FAILED:
            given.allocate_segment(number + 1)
    assert postponed(given) == [timedelta(seconds=30), timedelta(minutes=5)]
    assert given.status is JobStatus.FAILED, "after the first one, which was at once, and these"


def test_what_got_further_is_launched_again_at_once() -> None:
    given = running()
    given.end_segment(1, ending(SegmentEnd.CRASHED, 20))
    for segment in range(2, 5):
        given.allocate_segment(segment)
        save_checkpoint(given, segment, 10 * segment)
        given.end_segment(segment, ending(SegmentEnd.CRASHED, 20))
    assert postponed(given) == []


def test_a_resume_does_not_wait_for_the_time_that_a_launch_was_put_off_to() -> None:
    given = running(segment=2)
    given.end_segment(2, ending(SegmentEnd.CRASHED, 0))
    given.allocate_segment(3)
    given.end_segment(3, ending(SegmentEnd.CRASHED, 0))
    assert given.relaunch_at == NOW + timedelta(seconds=30)
    given.pause()
    given.resume(None, 3_600_000, "2")
    assert given.relaunch_at is None


def test_a_batch_that_was_halved_is_tried_at_once() -> None:
    given = running(segment=2)
    given.end_segment(2, ending(SegmentEnd.CRASHED, 0))
    given.allocate_segment(3)
    run_out_of_memory(given, 3)
    assert happened(given)[-1] == "MicroBatchHalved"


def test_a_job_that_pauses_puts_no_launch_off() -> None:
    given = running(segment=2)
    given.end_segment(2, ending(SegmentEnd.CRASHED, 0))
    given.allocate_segment(3)
    given.pause()
    given.end_segment(3, ending(SegmentEnd.CRASHED, 0))
    assert happened(given)[-2:] == ["SegmentEnded", "JobPaused"]


def test_endings_that_are_no_crash_do_not_count() -> None:
    given = job()
    for number in range(1, 10):
        given.allocate_segment(number)
        given.end_segment(number, ending(SegmentEnd.LEASE_ENDED, 300))
    assert given.next_segment == 10


def test_hyperparameters_are_read_as_recorded() -> None:
    assert job().plan.lora == Hyperparameters()


def test_a_suffix_is_a_part_of_the_models_name() -> None:
    order = Order(suffix="support", deploy=True)
    given = Job.approve(JOB_ID, ACCOUNT_ID, PLAN, ESTIMATE, order)
    assert given.model_name == "ft:tiny:support:222222222222"
    assert given.order == order
