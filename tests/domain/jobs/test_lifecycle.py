"""The lifecycle table: every cell is what the aggregate does, and what the documentation says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import product

import pytest

from domain.core.errors import WrongState
from domain.jobs.failures import FailureClass
from domain.jobs.job import Job, SegmentEnd
from domain.jobs.lifecycle import TABLE, Command, Effect, JobStatus, rule
from tests.builders.examples import (
    ESTIMATE,
    complete,
    ending,
    evaluate,
    evaluation_result,
    happened,
    job,
    running,
    save_checkpoint,
)

RETENTION = timedelta(days=30)


def evaluating() -> Job:
    given = running()
    save_checkpoint(given, 1, 30)
    given.start_evaluation(1, 30)
    return given


def pending_register() -> Job:
    given = running()
    evaluate(given, 1)
    return given


def registered() -> Job:
    given = running()
    complete(given, 1)
    return given


def paused() -> Job:
    given = job()
    given.pause()
    return given


def failed() -> Job:
    given = running()
    given.end_segment(1, ending(SegmentEnd.CRASHED, 1, failure=FailureClass.BAD_DATA))
    return given


def cancelled() -> Job:
    given = job()
    given.cancel(RETENTION)
    return given


GIVEN: dict[JobStatus, Callable[[], Job]] = {
    JobStatus.TRAINING: running,
    JobStatus.EVALUATING: evaluating,
    JobStatus.TRAINED_PENDING_REGISTER: pending_register,
    JobStatus.REGISTERED: registered,
    JobStatus.PAUSED: paused,
    JobStatus.FAILED: failed,
    JobStatus.CANCELLED: cancelled,
}


def deplete(given: Job) -> None:
    """The balance is spent: a running segment reaches the end of its paid time."""
    if given.running is not None:
        given.end_segment(given.segment, ending(SegmentEnd.LEASE_ENDED, 300), can_pay=False)
    else:
        given.deplete()


def crash(given: Job) -> None:
    """The process is gone, if there is one."""
    if given.running is not None:
        given.end_segment(
            given.segment, ending(SegmentEnd.CRASHED, 9, failure=FailureClass.NODE_LOST)
        )


WHEN: dict[Command, Callable[[Job], None]] = {
    Command.PAUSE: Job.pause,
    Command.RESUME: lambda given: given.resume(ESTIMATE, 3_600_000, "1"),
    Command.CANCEL: lambda given: given.cancel(RETENTION),
    Command.DEPLETE: deplete,
    Command.CRASH: crash,
}


def end_stopped(given: Job) -> None:
    """The trainer did what it was told, if one runs that was told anything."""
    if given.stop_requested:
        given.end_segment(given.segment, ending(SegmentEnd.STOPPED, 10))


CELLS = list(product(JobStatus, Command))


def refuses(status: JobStatus, command: Command) -> bool:
    """Whether the cell refuses a command that was not given before."""
    return rule(status, command).effect in (Effect.REFUSED, Effect.ONCE)


def test_the_table_is_whole() -> None:
    assert set(TABLE) == set(JobStatus)
    assert all(set(commands) == set(Command) for commands in TABLE.values())


@pytest.mark.parametrize(("status", "command"), CELLS)
def test_a_cell_is_what_the_job_does(status: JobStatus, command: Command) -> None:
    given, expected = GIVEN[status](), rule(status, command)
    assert given.status is status
    given.collect_events()
    if refuses(status, command):
        with pytest.raises(WrongState) as refusal:
            WHEN[command](given)
        assert refusal.value.message == expected.sentence
        assert happened(given) == []
        return
    WHEN[command](given)
    end_stopped(given)
    topics = happened(given)
    match expected.effect:
        case Effect.PAUSES:
            assert topics[-1] == "JobPaused"
        case Effect.CANCELS:
            assert topics[-1] == "JobCancelled"
        case Effect.RESUMES:
            assert topics == ["JobResumed"]
        case Effect.RELAUNCHES:
            assert topics == ["SegmentEnded"]
            assert given.next_segment == 2
        case _:
            assert topics == []
            assert given.status is status


@pytest.mark.parametrize(
    ("status", "command"),
    [(status, command) for status, command in CELLS if not refuses(status, command)],
)
def test_a_command_given_twice_does_one_thing(status: JobStatus, command: Command) -> None:
    given = GIVEN[status]()
    WHEN[command](given)
    end_stopped(given)
    given.collect_events()
    WHEN[command](given)
    assert happened(given) == []


@pytest.mark.parametrize(
    "status",
    [status for status in JobStatus if rule(status, Command.RESUME).effect is Effect.ONCE],
)
def test_a_resume_that_is_repeated_changes_nothing(status: JobStatus) -> None:
    given = paused()
    WHEN[Command.RESUME](given)
    given.allocate_segment(1)
    given.start_training(1, 0, 30, 95, 5)
    if status is not JobStatus.TRAINING:
        save_checkpoint(given, 1, 30)
        given.start_evaluation(1, 30)
    if status is JobStatus.TRAINED_PENDING_REGISTER:
        given.complete_evaluation(1, evaluation_result(3.0, 2.0, 5, 400))
    assert given.status is status
    given.collect_events()
    WHEN[Command.RESUME](given)
    assert happened(given) == []


def test_every_refusal_says_what_would_work() -> None:
    for status, commands in TABLE.items():
        for command, cell in commands.items():
            assert cell.sentence.endswith("."), (status, command)
            if refuses(status, command):
                assert cell.sentence.count(".") + cell.sentence.count(";") >= 2, (status, command)
