"""Ends of segments: reasons, failure classes, last log lines and money for a relaunch."""

from __future__ import annotations

from typing import Any

import pytest
from obstore.exceptions import GenericError

from domain.jobs import events
from domain.jobs.failures import FailureClass, MemoryShortage
from domain.jobs.job import JobStatus, SegmentEnd
from domain.jobs.lifecycle import PauseReason
from infrastructure.training.reports import Phase, Report
from services.scheduler.launchers.launcher import PodName
from services.scheduler.segment_spec import segment_spec
from services.scheduler.segments import LOG_TAIL_LINES, Segments
from services.trainer.lease import OVERRUN_EXIT_CODE, STALL_EXIT_CODE
from tests.builders.examples import JOB_ID, PLAN
from tests.builders.history import History
from tests.builders.reports import CHECKPOINT, failed, training
from tests.services.scheduler.conftest import Scheduler

NAME = PodName(JOB_ID, 1)


def end_of(history: History) -> events.SegmentEnded:
    return history.last(events.SegmentEnded)


def last_lines(history: History, scheduler: Scheduler) -> list[str]:
    """Return the log lines that the owner of the job sees."""
    ref = end_of(history).log_ref
    assert ref is not None
    return scheduler.artifacts.get(ref).decode().splitlines()


@pytest.mark.parametrize("reason", [SegmentEnd.STOPPED, SegmentEnd.LEASE_ENDED, SegmentEnd.CRASHED])
def test_an_ending_has_its_reason_and_its_times(
    history: History, running: Segments, reason: SegmentEnd
) -> None:
    running.record(training(9, outcome=reason, elapsed_seconds=309.9, grace_seconds=9.9))
    end = end_of(history)
    assert (end.reason, end.elapsed_seconds, end.grace_seconds) == (reason, 309, 9)


def test_a_failure_keeps_its_last_lines(
    history: History, scheduler: Scheduler, running: Segments
) -> None:
    scheduler.launcher.output = b"".join(b"line %d\n" % n for n in range(200))
    running.record(failed())
    assert end_of(history).error_class == "OutOfMemoryError"
    lines = last_lines(history, scheduler)
    assert (len(lines), lines[-1]) == (LOG_TAIL_LINES, "line 199")


def test_last_lines_hide_traces_and_paths(
    history: History, scheduler: Scheduler, running: Segments
) -> None:
    scheduler.launcher.output = (
        b"INFO loading\nTraceback (most recent call last):\n"
        b'  File "/srv/ecolink/trainer.py", line 1, in step\n'
        b"OSError: [Errno 5] Input/output error: '/srv/ecolink/home/scratch/x'\n"
    )
    running.record(failed())
    assert last_lines(history, scheduler) == [
        "INFO loading",
        "OSError: [Errno 5] Input/output error: '…/x'",
    ]


def test_last_lines_that_cannot_be_stored_follow_with_the_log(
    history: History, scheduler: Scheduler, running: Segments, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise GenericError("no space left on device")

    with monkeypatch.context() as full:
        full.setattr(scheduler.artifacts, "put", refuse)
        running.record(failed())
    ref = end_of(history).log_ref
    assert ref is not None
    assert not scheduler.artifacts.exists(ref)
    running.clean_up(history.job, 1)
    assert last_lines(history, scheduler) == ["first line", "last line"]


@pytest.mark.parametrize("phase", [Phase.MODEL_LOAD, Phase.TRAINING])
def test_a_repeated_failure_keeps_its_last_lines(
    history: History, scheduler: Scheduler, running: Segments, phase: Phase
) -> None:
    running.record(failed(3, phase))
    scheduler.launcher.remove(NAME)
    running.record(failed(4, phase))
    assert last_lines(history, scheduler) == ["first line", "last line"]


@pytest.mark.parametrize(
    ("exit_code", "error_class", "failure"),
    [
        (None, "ProcessLost", FailureClass.NODE_LOST),
        (-9, "TrainerExited(-9)", FailureClass.NODE_LOST),
        (137, "TrainerExited(137)", FailureClass.NODE_LOST),
        (STALL_EXIT_CODE, "TrainerExited(5)", FailureClass.TIMEOUT),
        (-11, "TrainerExited(-11)", FailureClass.TRAINER_CRASHED),
        (1, "TrainerExited(1)", FailureClass.TRAINER_CRASHED),
    ],
)
def test_a_lost_process_is_a_crash_that_frees_its_gpus(
    history: History,
    running: Segments,
    exit_code: int | None,
    error_class: str,
    failure: FailureClass,
) -> None:
    running.record(training(checkpoint=CHECKPOINT))
    running.lose(NAME, 60, exit_code, {Phase.TRAINING: 50.0})
    end = end_of(history)
    assert (end.reason, end.failure) == (SegmentEnd.CRASHED, failure)
    assert (end.error_class, end.phase_seconds) == (error_class, {Phase.TRAINING: 50.0})
    assert (end.elapsed_seconds, end.kept_seconds) == (60, 40)
    assert history.pool.held == {}


def test_a_process_lost_while_pausing_pauses_the_job(history: History, running: Segments) -> None:
    running.record(training(checkpoint=CHECKPOINT))
    history.pause()
    running.lose(NAME, 60, None)
    assert (history.job.status, history.job.step) == (JobStatus.PAUSED, 10)


def test_a_segment_is_lost_once_and_never_after_its_final_report(
    history: History, running: Segments
) -> None:
    running.record(training(9, outcome=SegmentEnd.STOPPED))
    for _ in range(2):
        running.lose(NAME, 60, None)
    assert len(history.events(events.SegmentEnded)) == 1


@pytest.mark.full
@pytest.mark.parametrize(
    ("fields", "failure"),
    [({"failure": each}, each) for each in FailureClass] + [({}, FailureClass.TRAINER_CRASHED)],
)
def test_a_failure_has_its_trainers_class(
    history: History, running: Segments, fields: dict[str, Any], failure: FailureClass
) -> None:
    running.record(failed(**fields, phase_seconds={Phase.MODEL_LOAD: 3.0}))
    end = end_of(history)
    assert (end.failure, end.phase_seconds) == (failure, {Phase.MODEL_LOAD: 3.0})


def test_a_too_large_micro_batch_is_halved(
    history: History, scheduler: Scheduler, running: Segments
) -> None:
    shortage = MemoryShortage(
        rows=4, tokens=500, micro_batch_size=4, gradient_accumulation=4, peak_bytes=10**9
    )
    running.record(failed(failure=FailureClass.OUT_OF_MEMORY, shortage=shortage))
    assert end_of(history).shortage == shortage
    assert history.topics()[-1] == "MicroBatchHalved"
    assert history.job.next_segment == 2
    spec = segment_spec(history.job, 300, scheduler.settings)
    assert spec.micro_batch_split == 2
    assert spec.hyperparameters == PLAN.lora, "as approved, so that a checkpoint matches"


def test_a_permanent_failure_ends_the_job(history: History, running: Segments) -> None:
    running.record(failed(failure=FailureClass.OUT_OF_MEMORY))
    assert history.job.status is JobStatus.FAILED


def lease_ended(elapsed_seconds: float = 300.4) -> Report:
    return training(9, outcome=SegmentEnd.LEASE_ENDED, elapsed_seconds=elapsed_seconds)


@pytest.mark.parametrize(
    ("left_micros", "elapsed_seconds", "status"),
    [
        (0, 300.4, JobStatus.PAUSED),
        (0, 299.9, JobStatus.PAUSED),  # one unknown paid second is too little
        (59_999, 300.4, JobStatus.PAUSED),  # the ticker has not recorded the depletion yet
        (60_000, 300.4, JobStatus.TRAINING),
    ],
)
def test_a_lease_that_ends_without_money_for_a_minute_pauses_the_job(
    history: History,
    running: Segments,
    left_micros: int,
    elapsed_seconds: float,
    status: JobStatus,
) -> None:
    history.reserve_balance(left_micros)
    running.record(lease_ended(elapsed_seconds))
    assert history.job.status is status
    assert history.pool.held == {}


def test_a_lease_extension_unknown_to_the_trainer_counts_as_money(
    history: History, running: Segments
) -> None:
    history.extend_lease(1, 60)
    history.reserve_balance()
    running.record(lease_ended())
    assert history.job.next_segment == 2


def test_an_overrun_counts_as_an_ended_lease(history: History, running: Segments) -> None:
    running.record(training(checkpoint=CHECKPOINT))
    running.lose(NAME, 318, OVERRUN_EXIT_CODE, {Phase.TRAINING: 310.0}, 18)
    end = end_of(history)
    assert (end.reason, end.failure, end.error_class) == (SegmentEnd.LEASE_ENDED, None, None)
    assert (end.elapsed_seconds, end.grace_seconds, end.kept_seconds) == (318, 18, 40)
    assert (history.job.crashes, history.job.next_segment) == (0, 2)
    assert history.pool.held == {}


@pytest.mark.parametrize("known_seconds", [318, 290], ids=["all", "too few"])
def test_an_overrun_without_money_pauses_despite_credits(
    history: History, running: Segments, known_seconds: int
) -> None:
    history.reserve_balance()
    running.lose(NAME, known_seconds, OVERRUN_EXIT_CODE)
    assert history.last(events.JobPaused).reason is PauseReason.BALANCE
    assert end_of(history).kept_seconds == 0
