"""Failure classes of segments and their last log lines."""

from __future__ import annotations

import pytest
from obstore.exceptions import GenericError

from domain.core.event_log import EventLog
from domain.jobs.failures import FailureClass, MemoryShortage
from domain.jobs.job import JobStatus, SegmentEnd
from infrastructure.artifacts import Artifacts
from infrastructure.reports import Phase
from infrastructure.settings import Settings
from services.scheduler.launchers.launcher import PodName
from services.scheduler.segment_spec import segment_spec
from services.scheduler.segments import LOG_TAIL_LINES, Segments
from services.trainer.lease import STALL_EXIT_CODE
from tests.builders.examples import JOB_ID, PLAN
from tests.builders.history import History
from tests.builders.reports import CHECKPOINT, failed, last_end, report, topics
from tests.services.scheduler.fake_launcher import FakeLauncher

NAME = PodName(JOB_ID, 1)


def test_a_failure_keeps_its_class_and_its_last_lines(
    log: EventLog, artifacts: Artifacts, launcher: FakeLauncher, running: Segments
) -> None:
    launcher.output = b"".join(b"line %d\n" % n for n in range(200))
    running.record(failed(3))
    end = last_end(log)
    assert end.error_class == "OutOfMemoryError"
    assert end.log_ref is not None
    lines = artifacts.get(end.log_ref).splitlines()
    assert (len(lines), lines[-1]) == (LOG_TAIL_LINES, b"line 199")


def test_a_failures_last_lines_hide_traces_and_paths(
    log: EventLog, artifacts: Artifacts, launcher: FakeLauncher, running: Segments
) -> None:
    launcher.output = (
        b"INFO loading\nTraceback (most recent call last):\n"
        b'  File "/srv/ecolink/trainer.py", line 1, in step\n'
        b"OSError: [Errno 5] Input/output error: '/srv/ecolink/home/scratch/x'\n"
    )
    running.record(failed(3))
    ref = last_end(log).log_ref
    assert ref is not None
    assert artifacts.get(ref).decode().splitlines() == [
        "INFO loading",
        "OSError: [Errno 5] Input/output error: '…/x'",
    ]


def test_a_segment_ends_without_its_last_lines(
    log: EventLog,
    artifacts: Artifacts,
    launcher: FakeLauncher,
    running: Segments,
    history: History,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as full:
        full.setattr(artifacts, "put", _refuse)
        running.record(failed(3))
    end = last_end(log)
    assert end.log_ref is not None
    assert not artifacts.exists(end.log_ref)
    running.keep_log(history.job, 1)
    assert artifacts.get(end.log_ref) == launcher.output, "later, with the rest of the log"


def _refuse(*_: object) -> None:
    raise GenericError("no space left on device")


@pytest.mark.parametrize("phase", [Phase.MODEL_LOAD, Phase.TRAINING])
def test_a_repeated_failure_keeps_its_last_lines(
    log: EventLog,
    artifacts: Artifacts,
    launcher: FakeLauncher,
    running: Segments,
    phase: Phase,
) -> None:
    running.record(failed(3, phase))
    launcher.remove(NAME)
    running.record(failed(4, phase))
    log_ref = last_end(log).log_ref
    assert log_ref is not None
    assert artifacts.get(log_ref) == launcher.output


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
    log: EventLog,
    history: History,
    running: Segments,
    exit_code: int | None,
    error_class: str,
    failure: FailureClass,
) -> None:
    running.record(report(1, Phase.TRAINING, checkpoint=CHECKPOINT))
    running.lose(NAME, 60, exit_code, {Phase.TRAINING: 50.0})
    end = last_end(log)
    assert (end.reason, end.failure) == (SegmentEnd.CRASHED, failure)
    assert (end.error_class, end.phase_seconds) == (error_class, {Phase.TRAINING: 50.0})
    assert (end.elapsed_seconds, end.kept_seconds) == (60, 40)
    assert history.pool.held == {}


@pytest.mark.parametrize("failure", FailureClass)
def test_a_failure_has_its_trainers_class(
    log: EventLog, running: Segments, failure: FailureClass
) -> None:
    running.record(failed(3, failure=failure, phase_seconds={Phase.MODEL_LOAD: 3.0}))
    assert last_end(log).failure is failure
    assert last_end(log).phase_seconds == {Phase.MODEL_LOAD: 3.0}


def test_a_too_large_micro_batch_is_halved(
    log: EventLog, history: History, running: Segments, settings: Settings
) -> None:
    shortage = MemoryShortage(
        rows=4, tokens=500, micro_batch_size=4, gradient_accumulation=4, peak_bytes=10**9
    )
    running.record(failed(3, failure=FailureClass.OUT_OF_MEMORY, shortage=shortage))
    assert last_end(log).shortage == shortage
    assert topics(log)[-1] == "MicroBatchHalved"
    job = history.job
    assert job.next_segment == 2
    spec = segment_spec(job, 300, settings)
    assert spec.micro_batch_split == 2
    assert spec.hyperparameters == PLAN.lora, "what was approved, so that a checkpoint matches"


def test_an_unclassified_failure_is_the_trainers(log: EventLog, running: Segments) -> None:
    running.record(failed(3))
    assert last_end(log).failure is FailureClass.TRAINER_CRASHED


def test_a_permanent_failure_ends_the_job(history: History, running: Segments) -> None:
    running.record(failed(3, failure=FailureClass.OUT_OF_MEMORY))
    assert history.job.status is JobStatus.FAILED
