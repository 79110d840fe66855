"""Jobs of a suspended account."""

from __future__ import annotations

import pytest

from domain.jobs.job import Job
from domain.jobs.lifecycle import PauseReason, SegmentEnd
from tests.builders.scenario import (
    CANCELLED,
    PAUSED,
    RUNNING,
    Step,
    cancels,
    crashes,
    ends,
    evaluates,
    fact,
    job,
    registers,
    resumes,
    saves,
    topics,
    when,
)

REQUESTED = fact("PauseRequested", reason=PauseReason.SUSPENDED)
JOB_PAUSED = fact("JobPaused", reason=PauseReason.SUSPENDED)


def test_a_queued_job_pauses_at_once() -> None:
    assert when(job(), Job.suspend) == [JOB_PAUSED]


def test_a_running_job_saves_first_and_resumes_from_its_checkpoint() -> None:
    given = job(*RUNNING)
    assert when(given, Job.suspend, Job.suspend) == [REQUESTED]
    assert topics(when(given, saves(10), ends(SegmentEnd.STOPPED, 60))) == [
        "CheckpointSaved",
        "SegmentEnded",
        "JobPaused",
    ]
    assert given.step == 10
    assert topics(when(given, resumes)) == ["JobResumed"]


def test_a_job_whose_lease_ends_first_pauses_too() -> None:
    given = job(*RUNNING, saves(10))
    events = when(given, ends(SegmentEnd.LEASE_ENDED, 60, shortfall=PauseReason.SUSPENDED))
    assert events[-1] == JOB_PAUSED


def test_a_failed_segment_is_not_relaunched() -> None:
    given = job(*RUNNING, saves(10), Job.suspend)
    assert when(given, crashes(60))[-1] == JOB_PAUSED


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(PAUSED, id="paused"),
        pytest.param(CANCELLED, id="cancelled"),
        pytest.param((*RUNNING, evaluates), id="registering"),
        pytest.param((*RUNNING, evaluates, registers), id="registered"),
        pytest.param((*RUNNING, Job.pause), id="pausing"),
        pytest.param((*RUNNING, cancels), id="cancelling"),
    ],
)
def test_other_jobs_do_not_change(steps: tuple[Step, ...]) -> None:
    assert when(job(*steps), Job.suspend) == []
