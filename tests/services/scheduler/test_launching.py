"""Launches that wait for busy GPUs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from threading import Thread
from typing import Any

import pytest

from domain.jobs import events
from domain.jobs.job import SegmentEnd
from domain.jobs.lifecycle import JobStatus, PauseReason
from infrastructure.artifacts.s3_requests import S3Refused
from infrastructure.training.reports import SegmentSpec
from services.scheduler import launching
from services.scheduler.launchers.launcher import Pod, PodName
from services.scheduler.launching import LaunchRetries
from services.scheduler.segment_spec import segment_spec
from tests.builders.commands import NOW, FixedClock
from tests.builders.examples import JOB_ID
from tests.builders.history import History
from tests.services.scheduler.conftest import Scheduler

NAME = PodName(JOB_ID, 1)
MANY = 20
LIMIT_SECONDS = 30

PassTime = Callable[..., None]


def retries(scheduler: Scheduler) -> PassTime:
    """Return a function that advances the machine's clock and launches what is due."""
    clock = FixedClock()
    launches = LaunchRetries(
        scheduler.pods, FixedClock(), scheduler.pool, scheduler.log, LIMIT_SECONDS, clock
    )

    def pass_time(seconds: float = 0) -> None:
        clock.time += timedelta(seconds=seconds)
        scheduler.project()
        launches.launch_due()

    return pass_time


@pytest.fixture
def pass_time(scheduler: Scheduler) -> PassTime:
    return retries(scheduler)


@pytest.fixture
def waiting(allocated: History, scheduler: Scheduler) -> History:
    """A leased job whose GPUs are busy, beside a free GPU."""
    scheduler.offer(gpus=2)
    scheduler.launcher.busy_for.add(NAME)
    allocated.grant_lease(1)
    scheduler.catch_up()
    return allocated


def lease_another_job(history: History, scheduler: Scheduler, *, busy: bool) -> PodName:
    """Lease another job. Return the name of its pod."""
    other = history.another_job()
    name = PodName(other.job_id, 1)
    if busy:
        scheduler.launcher.busy_for.add(name)
    other.approve_job(queued=False)
    scheduler.catch_up()
    other.grant_lease(1)
    scheduler.catch_up()
    return name


def test_a_waiting_launch_does_not_block_others(waiting: History, scheduler: Scheduler) -> None:
    other = lease_another_job(waiting, scheduler, busy=False)
    assert scheduler.launcher.started == [other]
    assert waiting.job.runs(1)


def test_a_waiting_launch_is_billed_from_its_start(
    waiting: History, scheduler: Scheduler, pass_time: PassTime
) -> None:
    pass_time()
    pass_time(1)
    assert waiting.job.pod is None
    scheduler.launcher.busy_for.clear()
    pass_time(1)
    pass_time(1)
    assert scheduler.launcher.started == [NAME]
    assert waiting.job.pod == str(NAME)
    assert waiting.last(events.PodStarted).bound_at == NOW, "the launcher's time"
    assert scheduler.launcher.specs[NAME].paid_seconds == 300


def test_each_retry_waits_longer(
    waiting: History, scheduler: Scheduler, pass_time: PassTime
) -> None:
    pass_time()
    pass_time(0.5)  # the first try
    scheduler.launcher.busy_for.clear()
    pass_time(0.5)
    assert waiting.job.pod is None
    pass_time(0.5)
    assert waiting.job.pod is not None


def test_no_pod_starts_after_its_event(
    allocated: History, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch, later = scheduler.launcher.launch, NOW + timedelta(seconds=7)
    monkeypatch.setattr(
        scheduler.launcher, "launch", lambda spec: replace(launch(spec), bound_at=later)
    )
    allocated.grant_lease(1)
    scheduler.catch_up()
    started = allocated.last(events.PodStarted)
    assert started.bound_at == later <= started.timestamp


def test_a_restarted_scheduler_retries_waiting_launches(
    waiting: History, scheduler: Scheduler, pass_time: PassTime
) -> None:
    pass_time()
    restarted = retries(scheduler)
    scheduler.launcher.busy_for.clear()
    restarted()
    restarted(1)
    assert waiting.job.pod == str(NAME)


def test_a_launcher_that_fails_for_too_long_pauses_the_job(
    waiting: History, scheduler: Scheduler, pass_time: PassTime
) -> None:
    """The job neither crashed nor failed, so its owner can resume it."""
    scheduler.launcher.refuses = True
    pass_time()
    pass_time(1)  # the first failure
    pass_time(LIMIT_SECONDS - 1)
    assert waiting.job.running
    pass_time(LIMIT_SECONDS)
    ended = waiting.last(events.SegmentEnded)
    assert (ended.reason, ended.failure) == (SegmentEnd.STOPPED, None)
    assert (ended.elapsed_seconds, ended.error_class) == (0, "LaunchFailed")
    assert waiting.last(events.JobPaused).reason is PauseReason.CAPACITY
    assert waiting.job.crashes == 0
    assert waiting.pool.held == {}


def test_a_launch_survives_a_launcher_that_fails(
    allocated: History, scheduler: Scheduler, pass_time: PassTime
) -> None:
    scheduler.launcher.refuses = True
    allocated.grant_lease(1)
    scheduler.catch_up()
    pass_time()
    pass_time(1)
    pass_time(4)
    scheduler.launcher.refuses = False
    pass_time(4)
    assert allocated.job.pod == str(NAME)
    assert allocated.job.segment == 1


@pytest.mark.parametrize("pending", [False, True], ids=["busy", "pending"])
def test_busy_gpus_and_pending_pods_are_awaited_without_a_limit(
    waiting: History, scheduler: Scheduler, pass_time: PassTime, *, pending: bool
) -> None:
    scheduler.launcher.pending |= {NAME} if pending else set()
    for _ in range(MANY):
        pass_time(4)
    assert waiting.job.running
    assert waiting.job.pod is None
    scheduler.launcher.busy_for.clear()
    scheduler.launcher.pending.clear()
    pass_time(4)
    assert waiting.job.pod == str(NAME)


def test_a_cancelled_job_ends_free_of_charge_while_its_pod_is_pending(
    waiting: History, scheduler: Scheduler, pass_time: PassTime
) -> None:
    scheduler.launcher.pending.add(NAME)
    pass_time(4)
    waiting.cancel()
    scheduler.catch_up()
    assert waiting.job.status is JobStatus.CANCELLED
    assert waiting.last(events.SegmentEnded).elapsed_seconds == 0


def test_a_pending_pod_keeps_its_credentials_for_a_while(
    waiting: History, scheduler: Scheduler, pass_time: PassTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[SegmentSpec] = []

    def counted(*arguments: Any) -> SegmentSpec:
        made.append(segment_spec(*arguments))
        return made[-1]

    monkeypatch.setattr(launching, "segment_spec", counted)
    scheduler.launcher.pending.add(NAME)
    for _ in range(5):
        pass_time(4)
    assert len(made) <= 1, "the launch before may have made one"


def test_a_launch_survives_a_store_that_issues_no_keys(
    allocated: History, scheduler: Scheduler, pass_time: PassTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> SegmentSpec:
        raise S3Refused("Throttling", "slow down")

    scheduler.offer(gpus=2)
    with monkeypatch.context() as patched:
        patched.setattr(launching, "segment_spec", refused)
        allocated.grant_lease(1)
        scheduler.catch_up()
        for _ in range(MANY):
            pass_time(4)
        assert allocated.job.running
        assert allocated.job.pod is None
    pass_time(4)
    assert allocated.job.pod == str(NAME)


def test_a_launch_survives_a_cluster_that_does_not_answer(
    allocated: History, scheduler: Scheduler, pass_time: PassTime
) -> None:
    scheduler.offer(gpus=2)
    scheduler.launcher.away = True
    allocated.grant_lease(1)
    scheduler.catch_up()
    for _ in range(MANY):
        pass_time(4)
    assert allocated.job.running
    scheduler.launcher.away = False
    pass_time(4)
    assert allocated.job.pod == str(NAME)


def test_a_segment_whose_pod_is_unknown_is_asked_to_stop(
    waiting: History, scheduler: Scheduler
) -> None:
    """Ending it at once could leave a trainer that runs without a segment."""
    scheduler.launcher.away = True
    waiting.pause()
    scheduler.catch_up()
    assert waiting.job.running
    scheduler.control.stop.assert_called_once_with(JOB_ID, 1)


def test_a_job_cancelled_while_waiting_is_not_launched(
    waiting: History, scheduler: Scheduler, pass_time: PassTime
) -> None:
    pass_time()
    waiting.cancel()
    scheduler.launcher.busy_for.clear()
    pass_time(1)
    scheduler.catch_up()
    assert scheduler.launcher.started == []
    assert waiting.job.status is JobStatus.CANCELLED


def test_a_cancel_during_a_launch_stops_the_pod(
    waiting: History, scheduler: Scheduler, pass_time: PassTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the segment would end without a pod, beside an unpaid trainer."""
    pass_time()
    scheduler.launcher.busy_for.clear()
    handling, launch = Thread(target=scheduler.catch_up), scheduler.launcher.launch

    def cancelled_meanwhile(spec: SegmentSpec) -> Pod:
        monkeypatch.undo()
        waiting.cancel()
        handling.start()
        handling.join(timeout=0.5)  # in which it could look for the pod
        return launch(spec)

    monkeypatch.setattr(scheduler.launcher, "launch", cancelled_meanwhile)
    pass_time(1)
    handling.join()
    assert waiting.job.pod == str(NAME)
    scheduler.control.stop.assert_called_once_with(JOB_ID, 1)


def test_only_leased_segments_without_a_pod_are_launched(
    history: History, scheduler: Scheduler, pass_time: PassTime
) -> None:
    history.run_until("launched")
    history.another_job().refuse_lease(1)
    pass_time()
    pass_time(1)
    assert scheduler.launcher.started == []


def test_a_failing_launch_does_not_block_others(
    waiting: History, scheduler: Scheduler, pass_time: PassTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted([NAME, lease_another_job(waiting, scheduler, busy=True)])
    pass_time()
    scheduler.launcher.busy_for.clear()
    launch = scheduler.launcher.launch

    def fail_the_first(spec: SegmentSpec) -> Pod:
        if spec.job_id == names[0].job_id:
            raise RuntimeError("unforeseen")
        return launch(spec)

    monkeypatch.setattr(scheduler.launcher, "launch", fail_the_first)
    pass_time(1)
    assert scheduler.launcher.started == names[1:]
    monkeypatch.undo()
    pass_time(4)
    assert len(scheduler.launcher.started) == 2
