"""The segments of a job: one runs at a time, and what its user pays for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from domain.core.errors import StaleSegment
from domain.jobs import events
from domain.jobs.failures import FAILURES, FailureClass, MemoryShortage, Payer
from domain.jobs.job import RELAUNCH_LIMIT, Job, JobStatus, SegmentEnd
from domain.jobs.usage import MeasuredSteps
from domain.training.hyperparameters import Hyperparameters
from domain.training.phases import Phase
from domain.training.training_plan import Order
from tests.builders.commands import NOW
from tests.builders.examples import ACCOUNT_ID, ESTIMATE, JOB_ID, PLAN, ending
from tests.builders.scenario import (
    RUNNING,
    Step,
    after,
    allocates,
    cancels,
    completes,
    crashes,
    ends,
    evaluates,
    fact,
    job,
    registers,
    resumes,
    running,
    saves,
    starts_evaluation,
    topics,
    trains,
    when,
)

RETRIED = [each for each in FailureClass if FAILURES[each].retried]
REPEATS = [each for each in FailureClass if not FAILURES[each].retried]
SHORTAGE = MemoryShortage(
    rows=4, tokens=500, micro_batch_size=4, gradient_accumulation=4, peak_bytes=10**9
)


def runs_out_of_memory(shortage: MemoryShortage | None = SHORTAGE) -> Step:
    return crashes(60, FailureClass.OUT_OF_MEMORY, shortage=shortage)


def test_an_approved_job_needs_its_first_segment() -> None:
    given = job()
    assert (given.status, given.next_segment) == (JobStatus.TRAINING, 1)
    assert given.plan.lora == Hyperparameters()


def test_a_job_trains_evaluates_and_is_registered() -> None:
    given = running()
    assert topics(when(given, completes)) == [
        "CheckpointSaved",
        "EvaluationStarted",
        "EvaluationCompleted",
        "Registered",
        "SegmentEnded",
        "EstimateScored",
    ]
    assert given.model is not None
    assert given.model.name == "ft:tiny:222222222222"
    assert (given.status, given.next_segment) == (JobStatus.REGISTERED, None)


def test_a_repeated_report_has_no_effect() -> None:
    steps = [trains(), saves(10), saves(10), saves(5), starts_evaluation, starts_evaluation]
    assert topics(when(running(), *steps)) == ["CheckpointSaved", "EvaluationStarted"]
    evaluated = running(evaluates)
    assert when(evaluated, evaluates) == []


def test_only_the_running_segment_reports_and_only_the_next_is_allocated() -> None:
    given = running(segment=2)
    for step in (
        lambda it: it.end_segment(1, ending(SegmentEnd.CRASHED, 1)),
        lambda it: it.start_evaluation(1, 30),
        lambda it: it.allocate_segment(3),
    ):
        with pytest.raises(StaleSegment):
            when(given, step)
    assert given.collect_events() == []
    when(given, ends(SegmentEnd.LEASE_ENDED, 300), allocates)
    assert given.segment == 3


@pytest.mark.parametrize(
    ("steps", "kept_seconds"),
    [
        *[
            pytest.param(
                [crashes(60, failure)],
                42 if FAILURES[failure].payer is Payer.PLATFORM else 60,
                id=f"after {failure}",
            )
            for failure in FailureClass
        ],
        pytest.param([crashes(60), allocates, crashes(5)], 0, id="of a segment that saved nothing"),
        pytest.param([ends(SegmentEnd.STOPPED, 60)], 42, id="after a stop by the platform"),
        pytest.param([Job.pause, ends(SegmentEnd.STOPPED, 60)], 60, id="after a pause"),
        pytest.param([cancels, ends(SegmentEnd.STOPPED, 60)], 60, id="after a cancellation"),
        pytest.param([ends(SegmentEnd.COMPLETED, 60)], 60, id="at the end"),
        pytest.param([ends(SegmentEnd.LEASE_ENDED, 60)], 60, id="when the paid time ends"),
    ],
)
def test_a_user_pays_for_kept_seconds(steps: list[Step], kept_seconds: int) -> None:
    happened = when(running(saves(10, elapsed_seconds=42)), *steps)
    ended = [each for each in happened if isinstance(each, events.SegmentEnded)]
    assert ended[-1].kept_seconds == kept_seconds


def test_a_crash_without_a_class_is_the_trainers() -> None:
    assert when(running(), ends(SegmentEnd.CRASHED, 60, error_class="KeyError")) == [
        fact("SegmentEnded", failure=FailureClass.TRAINER_CRASHED)
    ]


@pytest.mark.parametrize("failure", RETRIED)
def test_a_job_is_relaunched_three_times_before_it_fails(failure: FailureClass) -> None:
    crash = crashes(1, failure, error_class="OSError")
    given = job(*[allocates, crash] * RELAUNCH_LIMIT)
    assert given.status is JobStatus.TRAINING
    failed = when(given, allocates, crash)[-1]
    assert failed == fact("JobFailed", failure=failure, error_class="OSError")
    assert (given.status, given.next_segment) == (JobStatus.FAILED, None)


@pytest.mark.parametrize("failure", REPEATS)
def test_a_failure_that_would_repeat_fails_the_job(failure: FailureClass) -> None:
    assert when(running(), crashes(60, failure)) == [
        fact("SegmentEnded"),
        fact("JobFailed", failure=failure),
    ]


def test_a_batch_that_does_not_fit_is_halved_once_at_the_platforms_cost() -> None:
    given = running(saves(10, elapsed_seconds=42))
    assert when(given, runs_out_of_memory()) == [
        fact("SegmentEnded", shortage=SHORTAGE, kept_seconds=42),
        fact("MicroBatchHalved", micro_batch_size=2, gradient_accumulation=8),
    ]
    assert given.micro_batch_split == 2
    assert topics(when(given, allocates, runs_out_of_memory()))[-1] == "JobFailed"


@pytest.mark.parametrize("shortage", [None, SHORTAGE.model_copy(update={"rows": 1})])
def test_a_batch_that_cannot_be_split_fails_the_job(shortage: MemoryShortage | None) -> None:
    assert topics(when(running(), runs_out_of_memory(shortage))) == ["SegmentEnded", "JobFailed"]


def test_examples_that_ran_together_are_halved_even_if_a_micro_batch_is_one() -> None:
    ones = PLAN.model_copy(
        update={"hyperparameters": PLAN.hyperparameters | {"micro_batch_size": 1}}
    )
    given = Job.approve(JOB_ID, ACCOUNT_ID, ones, ESTIMATE)
    halved = when(given, allocates, runs_out_of_memory())[-1]
    assert halved == fact("MicroBatchHalved", micro_batch_size=1, gradient_accumulation=4)


def test_a_crash_in_evaluation_repeats_the_evaluation_but_not_the_training() -> None:
    given = running(evaluates)
    assert given.status is JobStatus.TRAINED_PENDING_REGISTER
    when(given, crashes(80))
    assert given.status is JobStatus.EVALUATING
    when(given, allocates, trains(30), starts_evaluation)
    assert given.status is JobStatus.EVALUATING
    when(given, evaluates, registers)
    assert given.status is JobStatus.REGISTERED


def test_the_score_sums_the_paid_time_of_all_segments_at_their_rates() -> None:
    given = job(
        *(allocates, saves(10, elapsed_seconds=40)),
        crashes(60, phase_seconds={Phase.MODEL_LOAD: 10.0, Phase.TRAINING: 50.0}),
        *(allocates, ends(SegmentEnd.LEASE_ENDED, 35, grace_seconds=5)),
        *(allocates, ends(SegmentEnd.LEASE_ENDED, 0), Job.pause),
        lambda it: it.resume(ESTIMATE, 7_200_000, "2", 1),
        *(allocates, trains(10), evaluates, registers),
    )
    end = ends(SegmentEnd.COMPLETED, 50, phase_seconds={Phase.TRAINING: 45.5})
    assert when(given, end)[-1] == fact(
        "EstimateScored",
        low_seconds=120,
        high_seconds=156,
        low_micros=120_000,
        high_micros=156_000,
        actual_seconds=40 + 30 + 50,
        actual_micros=1000 * (40 + 30) + 2000 * 50,
        phase_seconds={Phase.MODEL_LOAD: 10.0, Phase.TRAINING: 95.5},
        segments=3,  # the third took no time
    )


def test_a_checkpoint_of_a_later_step_resets_the_count_of_crashes() -> None:
    given = running(saves(10), *[crashes(20), allocates] * RELAUNCH_LIMIT, saves(10))
    assert given.crashes == RELAUNCH_LIMIT, "the same step again is no progress"
    when(given, saves(20))
    assert given.crashes == 0
    when(given, crashes(20))
    assert given.next_segment == RELAUNCH_LIMIT + 2


@pytest.mark.parametrize(
    ("given", "steps", "delays"),
    [
        pytest.param(
            RUNNING,
            [*[crashes(), allocates] * RELAUNCH_LIMIT, crashes()],
            [30, 300],
            id="longer after each crash without progress",
        ),
        pytest.param(
            (*RUNNING, crashes(20)),
            [step for n in (2, 3, 4) for step in (allocates, saves(10 * n), crashes(20))],
            [],
            id="not at all with progress",
        ),
        pytest.param(
            (*RUNNING, crashes(), allocates),
            [runs_out_of_memory()],
            [],
            id="not for a batch that was halved",
        ),
        pytest.param(
            (*RUNNING, crashes(), allocates),
            [Job.pause, crashes()],
            [],
            id="not for a job that pauses",
        ),
        pytest.param(
            (),
            [allocates, ends(SegmentEnd.LEASE_ENDED, 300)] * 9,
            [],
            id="not without a crash",
        ),
    ],
)
def test_a_relaunch_is_postponed(
    given: Sequence[Step], steps: list[Step], delays: list[int]
) -> None:
    happened = when(job(*given), *steps)
    postponed = [each for each in happened if isinstance(each, events.RelaunchPostponed)]
    assert [(each.until - NOW).total_seconds() for each in postponed] == delays


def test_a_resume_ends_the_delay_of_a_relaunch() -> None:
    given = running(crashes(), allocates, crashes())
    assert given.relaunch_at == NOW + timedelta(seconds=30)
    when(given, Job.pause, lambda it: it.resume(ESTIMATE, 3_600_000, "2", 1))
    assert given.relaunch_at is None


def test_a_launch_ends_the_delay_of_a_relaunch() -> None:
    """The clock may go back. A later relaunch without a delay must not wait for the old time."""
    given = running(crashes(), allocates, crashes(), allocates, saves(20), crashes(20))
    assert given.next_segment == 4
    assert given.may_launch(NOW)


def test_a_suffix_is_a_part_of_the_models_name() -> None:
    order = Order(suffix="support", deploy=True)
    given = Job.approve(JOB_ID, ACCOUNT_ID, PLAN, ESTIMATE, order)
    assert (given.model_name, given.order) == ("ft:tiny:support:222222222222", order)


PHASES = {Phase.MODEL_LOAD: 5.0, Phase.DATASET_PREP: 1.0, Phase.TRAINING: 54.0}


def test_the_saved_steps_of_segments_are_measured() -> None:
    first = (*RUNNING, saves(10, 26), saves(20, 46), crashes(60, phase_seconds=PHASES))
    given = job(*first)
    assert given.measured == MeasuredSteps(20, 40.0), "time after the last checkpoint is lost"
    after(given, allocates, trains(20), crashes(60, phase_seconds=PHASES))
    assert given.measured == MeasuredSteps(20, 40.0), "it saved nothing"
    repeats = (allocates, trains(10), saves(25, 51), Job.pause)
    after(given, *repeats, ends(SegmentEnd.STOPPED, 60, phase_seconds=PHASES))
    assert given.measured == MeasuredSteps(35, 85.0), "it trained ten steps again"
    after(given, resumes)
    assert given.measured.steps == 35
    after(given, Job.pause, lambda it: it.resume(ESTIMATE, 1, "2", 2))
    assert given.measured == MeasuredSteps(), "of another number of GPUs"


def test_a_segment_that_reported_no_times_is_not_measured() -> None:
    assert job(*RUNNING, saves(10, 26), crashes(60)).measured == MeasuredSteps()
