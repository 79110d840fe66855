"""Pause, resume and cancel, an empty balance and a lost capacity, alone and in races."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from domain.core.errors import StaleSegment, WrongState
from domain.jobs.failures import FailureClass
from domain.jobs.job import RELAUNCH_LIMIT, Job, JobStatus, SegmentEnd
from domain.jobs.lifecycle import PauseReason
from tests.builders.commands import NOW
from tests.builders.examples import ESTIMATE, RETENTION
from tests.builders.scenario import (
    CANCELLED,
    PAUSED,
    RUNNING,
    Step,
    allocates,
    cancels,
    completes,
    crashes,
    ends,
    evaluates,
    fact,
    job,
    later,
    paused,
    registers,
    resumes,
    running,
    saves,
    starts_evaluation,
    topics,
    trains,
    when,
)

ENDED = fact("SegmentEnded")
PAUSE_REQUESTED = fact("PauseRequested", reason=PauseReason.OWNER)
JOB_CANCELLED = fact("JobCancelled", step=0, checkpoint_ref=None, expires_at=None)
STOPS = ends(SegmentEnd.STOPPED, 60)


def job_paused(reason: PauseReason, step: int = 0) -> fact:
    return fact("JobPaused", reason=reason, step=step)


JOB_PAUSED = job_paused(PauseReason.OWNER)


def test_a_running_segment_ends_before_its_job_is_paused() -> None:
    given = running(saves(10))
    assert when(given, Job.pause) == [PAUSE_REQUESTED]
    assert (given.status, given.stop_requested) == (JobStatus.TRAINING, True)
    assert when(given, STOPS) == [
        fact("SegmentEnded", kept_seconds=60),
        job_paused(PauseReason.OWNER, step=10),
    ]
    assert (given.status, given.next_segment) == (JobStatus.PAUSED, None)
    assert not given.stop_requested


@pytest.mark.parametrize(
    ("given", "steps", "then"),
    [
        pytest.param((), [Job.pause], [JOB_PAUSED], id="a queued job pauses at once"),
        pytest.param(
            (allocates,),
            [Job.pause, ends(SegmentEnd.STOPPED)],
            [PAUSE_REQUESTED, fact("SegmentEnded", kept_seconds=0), JOB_PAUSED],
            id="a segment that never launched ends at no cost",
        ),
        pytest.param(
            RUNNING,
            [Job.pause, Job.pause, STOPS, Job.pause],
            [PAUSE_REQUESTED, ENDED, JOB_PAUSED],
            id="a repeated pause has no effect",
        ),
        pytest.param(
            (
                *RUNNING,
                Job.pause,
                evaluates,
            ),
            [Job.pause],
            [],
            id="not even while it registers",
        ),
        *[
            pytest.param(
                (
                    *RUNNING,
                    Job.pause,
                ),
                [crashes(60, failure)],
                [ENDED, JOB_PAUSED],
                id=f"{failure} before the pause is not relaunched",
            )
            for failure in (FailureClass.NODE_LOST, FailureClass.TRAINER_CRASHED)
        ],
        pytest.param(
            (
                *RUNNING,
                Job.pause,
            ),
            [crashes(60, FailureClass.OUT_OF_MEMORY)],
            [ENDED, fact("JobFailed", failure=FailureClass.OUT_OF_MEMORY)],
            id="a failure that would repeat fails the job despite the pause",
        ),
        pytest.param(
            (
                *RUNNING,
                Job.pause,
            ),
            [ends(SegmentEnd.LEASE_ENDED, 300, shortfall=PauseReason.BALANCE)],
            [ENDED, JOB_PAUSED],
            id="an owner's pause stays the reason when the paid time ends first",
        ),
        pytest.param(
            (
                *RUNNING,
                saves(10),
            ),
            [ends(SegmentEnd.LEASE_ENDED, 301, grace_seconds=1, shortfall=PauseReason.BALANCE)],
            [ENDED, job_paused(PauseReason.BALANCE, step=10)],
            id="a job without money pauses when its paid time ends",
        ),
        pytest.param(
            RUNNING,
            [ends(SegmentEnd.LEASE_ENDED, 300)],
            [ENDED],
            id="a job with money is relaunched when its paid time ends",
        ),
        pytest.param(
            (
                *RUNNING,
                saves(10, elapsed_seconds=40),
            ),
            [
                ends(
                    SegmentEnd.LEASE_ENDED,
                    318,
                    grace_seconds=18,
                    shortfall=PauseReason.BALANCE,
                    overran=True,
                )
            ],
            [
                fact("SegmentEnded", kept_seconds=40, failure=None),
                job_paused(PauseReason.BALANCE, step=10),
            ],
            id="an overrun is credited back to the last checkpoint",
        ),
        pytest.param(
            (), [Job.deplete], [job_paused(PauseReason.BALANCE)], id="a queued job depletes"
        ),
        pytest.param(RUNNING, [Job.deplete], [], id="a running segment ends with its lease"),
        pytest.param(PAUSED, [Job.deplete], [], id="a paused job needs no money"),
        pytest.param(CANCELLED, [Job.deplete], [], id="a cancelled job needs no money"),
        pytest.param(
            (),
            [Job.lose_capacity, Job.lose_capacity],
            [job_paused(PauseReason.CAPACITY)],
            id="a queued job pauses when its region loses the GPUs",
        ),
        pytest.param(RUNNING, [Job.lose_capacity], [], id="a running job keeps its GPUs"),
        pytest.param(PAUSED, [Job.lose_capacity], [], id="a paused job needs no GPUs"),
        pytest.param(CANCELLED, [Job.lose_capacity], [], id="a cancelled job needs no GPUs"),
    ],
)
def test_a_job_pauses(given: Sequence[Step], steps: list[Step], then: list[fact]) -> None:
    assert when(job(*given), *steps) == then


def test_a_job_that_completes_before_its_pause_is_registered() -> None:
    given = running(Job.pause)
    assert "JobPaused" not in topics(when(given, completes))
    assert given.status is JobStatus.REGISTERED


def test_a_launch_requires_the_price_of_a_minute_or_the_last_gate() -> None:
    given = job()
    assert given.launch_micros(60) == 60_000
    assert given.launch_micros(300) == ESTIMATE.high_micros
    given.pause()
    given.resume(ESTIMATE, 1, "2", 1)
    assert given.launch_micros(60) == 1, "no rate is so low that nothing is enough"


def test_a_job_resumes_at_the_new_rate_with_the_new_gpus() -> None:
    given = paused()
    assert given.must_resume()
    assert when(given, lambda it: it.resume(ESTIMATE, 7_200_000, "2", 2), allocates) == [
        fact(
            "JobResumed",
            rate_micros_per_hour=7_200_000,
            catalog_version="2",
            estimate=ESTIMATE,
            gpu_count=2,
        ),
        fact("SegmentAllocated", segment=2, rate_micros_per_hour=7_200_000),
    ]
    assert given.status is JobStatus.TRAINING
    assert (given.gpu_count, given.plan.gpu_count) == (2, 1), "the approved plan stays"
    assert when(given, trains(10), completes)[-1] == fact("EstimateScored", gpu_count=2)


def test_a_repeated_resume_has_no_effect_until_the_next_pause() -> None:
    given = paused()
    assert topics(when(given, resumes, resumes, allocates, resumes)) == [
        "JobResumed",
        "SegmentAllocated",
    ]
    assert not given.must_resume()
    assert topics(when(given, Job.pause, STOPS, resumes))[-1] == "JobResumed"


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        pytest.param(RUNNING, resumes, id="resume a job that was never paused"),
        pytest.param(RUNNING, Job.must_resume, id="check if such a job must resume"),
        pytest.param(
            (
                *RUNNING,
                Job.pause,
            ),
            resumes,
            id="resume before the pause",
        ),
        pytest.param(
            (
                *RUNNING,
                cancels,
            ),
            resumes,
            id="resume before the cancellation",
        ),
        pytest.param(
            (
                *RUNNING,
                cancels,
            ),
            Job.pause,
            id="pause before the cancellation",
        ),
    ],
)
def test_a_job_refuses(given: Sequence[Step], refused: Step) -> None:
    with pytest.raises(WrongState):
        refused(job(*given))


def test_a_job_that_was_paused_in_its_evaluation_evaluates_again() -> None:
    given = running(saves(30, elapsed_seconds=70), starts_evaluation, Job.pause, STOPS)
    assert given.trained
    when(given, resumes)
    assert given.status is JobStatus.EVALUATING
    when(given, allocates, trains(30))
    assert given.status is JobStatus.EVALUATING


def test_a_job_resumes_from_the_step_of_its_last_checkpoint() -> None:
    given = running(segment=2)
    assert (given.step, given.trained) == (0, False)
    when(given, saves(10), Job.pause, STOPS)
    assert (given.step, given.total_steps, given.trained) == (10, 30, False)


def test_a_running_segment_ends_before_its_job_is_cancelled() -> None:
    given = running(saves(10))
    assert when(given, cancels, later(60, STOPS)) == [
        fact("CancelRequested", retention_seconds=RETENTION.total_seconds()),
        fact("SegmentEnded", kept_seconds=60),
        fact(
            "JobCancelled",
            step=10,
            checkpoint_ref="checkpoints/1/10",
            manifest_sha256="c" * 64,
            expires_at=NOW + timedelta(seconds=60) + RETENTION,
        ),
    ]
    assert (given.status, given.next_segment) == (JobStatus.CANCELLED, None)
    with pytest.raises(StaleSegment):
        saves(20)(given)


CANCEL_REQUESTED = fact("CancelRequested")


@pytest.mark.parametrize(
    ("given", "steps", "then"),
    [
        pytest.param((), [cancels], [JOB_CANCELLED], id="a queued job is cancelled at once"),
        pytest.param(PAUSED, [cancels], [fact("JobCancelled", step=10)], id="so is a paused one"),
        pytest.param(
            RUNNING,
            [cancels, cancels, STOPS, cancels],
            [CANCEL_REQUESTED, ENDED, JOB_CANCELLED],
            id="a repeated cancel has no effect",
        ),
        pytest.param(
            (
                *RUNNING,
                Job.pause,
            ),
            [cancels, STOPS],
            [CANCEL_REQUESTED, ENDED, JOB_CANCELLED],
            id="a cancel replaces a pending pause",
        ),
        pytest.param(
            (
                *RUNNING,
                evaluates,
            ),
            [cancels, ends(SegmentEnd.COMPLETED, 90)],
            [CANCEL_REQUESTED, ENDED, fact("JobCancelled", step=30)],
            id="a job can be cancelled while it registers",
        ),
        pytest.param(
            (
                *[allocates, crashes(1)] * RELAUNCH_LIMIT,
                allocates,
                cancels,
            ),
            [crashes(1)],
            [ENDED, JOB_CANCELLED],
            id="a crash cancels even after the last relaunch",
        ),
    ],
)
def test_a_job_is_cancelled(given: Sequence[Step], steps: list[Step], then: list[fact]) -> None:
    assert when(job(*given), *steps) == then


def test_a_job_that_is_being_cancelled_registers_nothing() -> None:
    given = running(cancels, evaluates)
    with pytest.raises(WrongState):
        registers(given)
    assert topics(when(given, ends(SegmentEnd.COMPLETED, 90)))[-1] == "JobCancelled"
    assert given.model is None
