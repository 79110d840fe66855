"""The lifecycle table describes what a job does."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest

from domain.core.errors import WrongState
from domain.jobs.failures import FailureClass
from domain.jobs.job import Job, SegmentEnd
from domain.jobs.lifecycle import TABLE, Command, Effect, JobStatus, PauseReason, rule
from tests.builders.examples import evaluation_result
from tests.builders.scenario import (
    RUNNING,
    Step,
    allocates,
    cancels,
    completes,
    crashes,
    ends,
    evaluates,
    job,
    resumes,
    saves,
    starts_evaluation,
    topics,
    trains,
    when,
)

GIVEN: dict[JobStatus, Sequence[Step]] = {
    JobStatus.TRAINING: RUNNING,
    JobStatus.EVALUATING: (*RUNNING, saves(30), starts_evaluation),
    JobStatus.TRAINED_PENDING_REGISTER: (*RUNNING, evaluates),
    JobStatus.REGISTERED: (*RUNNING, completes),
    JobStatus.PAUSED: (Job.pause,),
    JobStatus.FAILED: (*RUNNING, crashes(1, FailureClass.BAD_DATA)),
    JobStatus.CANCELLED: (cancels,),
}


def depletes(given: Job) -> None:
    """Spend the balance: a running segment reaches the end of its paid time."""
    if given.running is not None:
        ends(SegmentEnd.LEASE_ENDED, 300, shortfall=PauseReason.BALANCE)(given)
    else:
        given.deplete()


def loses_its_process(given: Job) -> None:
    if given.running is not None:
        crashes(9)(given)


def stops_if_requested(given: Job) -> None:
    if given.stop_requested:
        ends(SegmentEnd.STOPPED, 10)(given)


WHEN: dict[Command, Step] = {
    Command.PAUSE: Job.pause,
    Command.RESUME: resumes,
    Command.CANCEL: cancels,
    Command.DEPLETE: depletes,
    Command.CRASH: loses_its_process,
}
CELLS = list(product(JobStatus, Command))


def refuses(status: JobStatus, command: Command) -> bool:
    return rule(status, command).effect in (Effect.REFUSED, Effect.ONCE)


def test_the_table_is_complete() -> None:
    assert set(TABLE) == set(JobStatus)
    assert all(set(commands) == set(Command) for commands in TABLE.values())


@pytest.mark.parametrize(("status", "command"), CELLS)
def test_a_job_does_what_the_table_says(status: JobStatus, command: Command) -> None:
    given, expected = job(*GIVEN[status]), rule(status, command)
    assert given.status is status
    if refuses(status, command):
        with pytest.raises(WrongState) as refusal:
            WHEN[command](given)
        assert refusal.value.message == expected.sentence
        assert given.collect_events() == []
        return
    happened = topics(when(given, WHEN[command], stops_if_requested))
    match expected.effect:
        case Effect.PAUSES:
            assert happened[-1] == "JobPaused"
        case Effect.CANCELS:
            assert happened[-1] == "JobCancelled"
        case Effect.RESUMES:
            assert happened == ["JobResumed"]
        case Effect.RELAUNCHES:
            assert happened == ["SegmentEnded"]
            assert given.next_segment == 2
        case _:
            assert happened == []
            assert given.status is status
    assert when(given, WHEN[command]) == [], "a repeated command has no effect"


@pytest.mark.parametrize(
    ("status", "steps"),
    [
        (JobStatus.TRAINING, []),
        (JobStatus.EVALUATING, [saves(30), starts_evaluation]),
        (
            JobStatus.TRAINED_PENDING_REGISTER,
            [
                *(saves(30), starts_evaluation),
                lambda given: given.complete_evaluation(1, evaluation_result()),
            ],
        ),
    ],
)
def test_a_repeated_resume_has_no_effect(status: JobStatus, steps: list[Step]) -> None:
    assert rule(status, Command.RESUME).effect is Effect.ONCE
    given = job(Job.pause, resumes, allocates, trains(), *steps)
    assert given.status is status
    assert when(given, resumes) == []


@pytest.mark.parametrize(("status", "command"), CELLS)
def test_a_refusal_suggests_what_to_do(status: JobStatus, command: Command) -> None:
    sentence = rule(status, command).sentence
    assert sentence.endswith(".")
    if refuses(status, command):
        assert sentence.count(".") + sentence.count(";") >= 2
