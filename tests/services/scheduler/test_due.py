"""Delayed relaunches, expired adapters, and jobs of suspended accounts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from domain.jobs import events
from domain.jobs.job import JobStatus, SegmentEnd
from domain.jobs.lifecycle import PauseReason
from domain.training.start import Start
from infrastructure.artifacts.store import Manifest
from infrastructure.bus.consumer import OrderedConsumer
from projections import JOB_DETAIL
from projections.job_detail import expired_adapters
from projections.projection import ProjectionEffect
from services.scheduler.due import claim_due, expire_due, pause_suspended
from tests.builders.commands import NOW, FixedClock, command
from tests.builders.examples import JOB_ID
from tests.builders.history import RETENTION, History
from tests.builders.reports import HOME
from tests.services.scheduler.conftest import Scheduler

PassTime = Callable[[int], None]
BROKEN_ROW = """
CREATE TEMP TABLE copy AS SELECT * FROM job_detail;
UPDATE copy SET job_id = gen_random_uuid(), relaunch_at = approved_at, expires_at = approved_at;
INSERT INTO job_detail SELECT * FROM copy; DROP TABLE copy
"""
"""Adds a job that is not in the log, and whose relaunch and expiry are due."""


@pytest.fixture
def crashed(allocated: History, scheduler: Scheduler) -> History:
    """A job that crashed twice, and waits 30 s for its second relaunch."""
    for segment in (1, 2):
        scheduler.catch_up()
        crash(allocated, segment)
    scheduler.catch_up()
    return allocated


def crash(history: History, segment: int) -> None:
    """End a leased segment as crashed, before its pod starts."""
    history.grant_lease(segment)
    history.end_segment(segment, SegmentEnd.CRASHED, settled=False)


@pytest.fixture
def pass_time(scheduler: Scheduler) -> PassTime:
    """Advances the clock by some seconds and handles what is due."""

    def pass_time(seconds: int) -> None:
        scheduler.catch_up()
        scheduler.clock.time += timedelta(seconds=seconds)
        for _ in range(2):  # the second check finds the claims of the first
            scheduler.project()
            claim_due(scheduler.log, scheduler.clock, scheduler.pool, scheduler.scheduling.claim)
        scheduler.catch_up()

    return pass_time


def test_a_job_is_queued_when_its_relaunch_is_due(
    crashed: History, scheduler: Scheduler, pass_time: PassTime
) -> None:
    assert (crashed.job.segment, crashed.job.running) == (2, None)
    assert (crashed.pool.held, crashed.pool.queue) == ({}, {})
    pass_time(29)
    assert crashed.job.segment == 2
    pass_time(1)
    assert crashed.job.runs(3)
    crashed.grant_lease(3)
    pass_time(1)
    assert crashed.job.pod is not None


def test_the_job_fails_after_the_last_retry(crashed: History, pass_time: PassTime) -> None:
    pass_time(30)
    crash(crashed, 3)
    pass_time(269)  # crashes have the time of the first one
    assert (crashed.job.segment, crashed.job.running) == (3, None)
    pass_time(1)
    crash(crashed, 4)
    pass_time(0)
    assert crashed.job.status is JobStatus.FAILED
    assert crashed.pool.held == {}


def test_another_job_uses_the_gpus_meanwhile(crashed: History, pass_time: PassTime) -> None:
    other = crashed.another_job()
    other.approve_job(queued=False)
    for seconds in (30, 60):
        pass_time(seconds)
        assert other.job.running
        assert list(crashed.pool.queue) == [(JOB_ID, 3)], "it is queued once"


def test_a_late_handler_queues_due_jobs(allocated: History, scheduler: Scheduler) -> None:
    allocated.end_segment(1, SegmentEnd.CRASHED)
    scheduler.catch_up()
    allocated.end_segment(2, SegmentEnd.CRASHED)
    scheduler.clock.time += timedelta(seconds=30)
    scheduler.catch_up()
    assert allocated.job.runs(3)


def test_a_resumed_job_is_launched_without_a_delay(crashed: History, scheduler: Scheduler) -> None:
    crashed.pause()
    crashed.resume()
    scheduler.catch_up()
    assert crashed.job.runs(3)


def test_a_paused_job_is_not_queued(crashed: History, pass_time: PassTime) -> None:
    crashed.pause()
    pass_time(60)
    assert crashed.pool.queue == {}
    assert crashed.last(events.JobPaused).reason is PauseReason.OWNER


def test_a_due_job_that_cannot_pay_is_paused(crashed: History, pass_time: PassTime) -> None:
    with command("settle"):
        meter = crashed.meter(2)
        meter.close(0, 60)
        crashed.log.commit(meter)
    crashed.reserve_balance()
    pass_time(60)
    assert crashed.last(events.JobPaused).reason is PauseReason.BALANCE


def test_a_failing_relaunch_does_not_block_others(crashed: History, scheduler: Scheduler) -> None:
    scheduler.project()
    with scheduler.pool.connection() as connection:
        connection.execute(BROKEN_ROW)
    scheduler.clock.time += timedelta(seconds=30)
    claim_due(crashed.log, scheduler.clock, scheduler.pool, scheduler.scheduling.claim)
    assert list(crashed.pool.held) == [(JOB_ID, 3)]


def store_files(scheduler: Scheduler) -> list[str]:
    """Store files of the job and of another one. Return the refs of the job's."""
    refs = [
        f"{HOME}/adapter/segment-1/adapter_model.safetensors",
        f"{HOME}/checkpoints/segment-1/step-000010/state.pt",
        f"{HOME}/logs/segment-1.log",
    ]
    for ref in (*refs, "jobs/other/checkpoints/segment-1/state.pt"):
        scheduler.artifacts.put(ref, b"content")
    return refs


def cancel_with_a_checkpoint(history: History, **saved: Any) -> None:
    history.save_checkpoint(1, 10, 40, **saved)
    history.cancel()
    history.end_segment(1, SegmentEnd.STOPPED, 60)


def expire(scheduler: Scheduler, after: timedelta = RETENTION) -> None:
    """Advance the clock, and expire what is due."""
    scheduler.clock.time = NOW + after
    scheduler.project()
    expire_due(scheduler.log, scheduler.clock, scheduler.pool)
    scheduler.catch_up()


def test_a_cancelled_jobs_files_expire_and_its_logs_stay(
    launched: History, scheduler: Scheduler
) -> None:
    refs = store_files(scheduler)
    cancel_with_a_checkpoint(launched)
    expire(scheduler, timedelta())
    assert scheduler.artifacts.list(HOME) == refs
    for _ in range(2):
        expire(scheduler)
    assert len(launched.events(events.AdapterExpired)) == 1
    assert scheduler.artifacts.list("jobs") == [
        refs[-1],
        "jobs/other/checkpoints/segment-1/state.pt",
    ]


def test_deployed_checkpoints_do_not_expire(launched: History, scheduler: Scheduler) -> None:
    refs = store_files(scheduler)
    launched.import_base()
    launched.deploy_base()
    cancel_with_a_checkpoint(launched)
    model = launched.deploy_checkpoint(10)
    job_detail = ProjectionEffect(JOB_DETAIL, scheduler.pool.connection)
    OrderedConsumer(job_detail, scheduler.log).catch_up()  # before the list of deployments
    expire_due(scheduler.log, FixedClock(NOW + RETENTION), scheduler.pool)
    launched.fail_deployment(model)
    expire(scheduler)
    with scheduler.pool.connection() as connection:
        assert expired_adapters(connection, scheduler.clock.now()) == []
    assert scheduler.artifacts.list(HOME) == refs
    launched.undeploy(model)
    expire(scheduler)
    assert launched.events(events.AdapterExpired)


def test_checkpoints_that_an_unfinished_job_continues_do_not_expire(
    launched: History, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = store_files(scheduler)
    cancel_with_a_checkpoint(launched)
    start = Start(
        model="ft:tiny:222222222222:ckpt-step-10",
        job_id=JOB_ID,
        step=10,
        ref="checkpoints/1/10",
        manifest_sha256="c" * 64,
    )
    child = launched.another_job()
    child.plan = child.plan.model_copy(update={"start": start})
    child.approve_job()
    expire(scheduler)
    with scheduler.pool.connection() as connection:
        assert expired_adapters(connection, scheduler.clock.now()) == []
    # The list may be older than the child's approval.
    with monkeypatch.context() as patched:
        patched.setattr("services.scheduler.due.expired_adapters", lambda *_: [JOB_ID])
        expire(scheduler)
    assert scheduler.artifacts.list(HOME) == refs
    child.cancel()
    child.end_segment(1, SegmentEnd.STOPPED, 60)
    expire(scheduler)
    assert launched.events(events.AdapterExpired)


def test_promoted_checkpoints_do_not_expire(launched: History, scheduler: Scheduler) -> None:
    refs = store_files(scheduler)
    files = scheduler.artifacts.add_files("checkpoints/1/10", Manifest(files=()), {"a": b"state"})
    cancel_with_a_checkpoint(launched, manifest_sha256=files.sha256)
    launched.promote()
    expire(scheduler)
    assert scheduler.artifacts.list(HOME) == refs


def test_a_failing_expiry_does_not_block_others(launched: History, scheduler: Scheduler) -> None:
    cancel_with_a_checkpoint(launched)
    scheduler.project()
    with scheduler.pool.connection() as connection:
        connection.execute(BROKEN_ROW)
    scheduler.clock.time = NOW + RETENTION
    expire_due(scheduler.log, scheduler.clock, scheduler.pool)
    assert launched.events(events.AdapterExpired)


def suspend(history: History, scheduler: Scheduler) -> None:
    """Suspend the account, and pause its jobs."""
    history.suspend()
    for _ in range(2):  # the second check finds nothing more to do
        scheduler.project()
        pause_suspended(scheduler.log, scheduler.clock, scheduler.pool)
    scheduler.catch_up()


def test_running_and_queued_jobs_of_a_suspended_account_pause(
    allocated: History, scheduler: Scheduler
) -> None:
    allocated.grant_lease(1)
    scheduler.catch_up()
    queued = allocated.another_job()
    queued.approve_job(queued=False)
    scheduler.catch_up()
    suspend(allocated, scheduler)
    assert [each.reason for each in allocated.events(events.PauseRequested)] == [
        PauseReason.SUSPENDED
    ]
    scheduler.control.stop.assert_called_with(JOB_ID, 1)
    assert queued.last(events.JobPaused).reason is PauseReason.SUSPENDED
    assert allocated.pool.queue == {}
    allocated.end_segment(1, SegmentEnd.STOPPED, 30)
    scheduler.catch_up()
    assert allocated.job.status is JobStatus.PAUSED
    assert allocated.pool.held == {}


def test_a_segment_without_a_pod_ends_when_the_account_is_suspended(
    allocated: History, scheduler: Scheduler
) -> None:
    suspend(allocated, scheduler)
    assert allocated.last(events.JobPaused).reason is PauseReason.SUSPENDED
    assert allocated.last(events.SegmentEnded).elapsed_seconds == 0


def test_a_job_approved_while_its_account_is_suspended_is_not_queued(
    allocated: History, scheduler: Scheduler
) -> None:
    """The approval read the account before the suspension was saved."""
    allocated.suspend()
    late = allocated.another_job()
    late.approve_job(queued=False)
    scheduler.catch_up()
    assert late.last(events.JobPaused).reason is PauseReason.SUSPENDED


def test_jobs_of_other_accounts_and_of_reinstated_ones_do_not_pause(
    allocated: History, scheduler: Scheduler
) -> None:
    allocated.suspend()
    scheduler.project()
    allocated.reinstate()
    pause_suspended(scheduler.log, scheduler.clock, scheduler.pool)
    assert allocated.events(events.PauseRequested) == []
    assert allocated.events(events.JobPaused) == []
