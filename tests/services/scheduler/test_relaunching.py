"""Relaunches after failures without progress, with growing pauses."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from domain.jobs.job import JobStatus, SegmentEnd
from domain.jobs.lifecycle import PauseReason
from infrastructure.consumer import OrderedConsumer
from infrastructure.store import Connection
from services.scheduler.due import claim_due
from services.scheduler.handlers import Scheduling
from tests.builders.commands import FixedClock, command
from tests.builders.examples import JOB_ID
from tests.builders.history import History
from tests.projecting import project
from tests.services.scheduler.fake_launcher import FakeLauncher
from tests.services.scheduler.others import approve, end, job, lease, pause_reason, spend

pytestmark = pytest.mark.usefixtures("no_parking")


class Passing:
    """Lets time pass and runs the scheduler's event handlers and due work."""

    def __init__(
        self,
        log: EventLog,
        pool: ConnectionPool[Connection],
        clock: FixedClock,
        scheduler: OrderedConsumer,
        scheduling: Scheduling,
    ) -> None:
        self._log, self._pool, self._clock, self._scheduler = log, pool, clock, scheduler
        self._claim = scheduling.claim

    def __call__(self, *, seconds: int) -> None:
        self._scheduler.catch_up()
        self._clock.time += timedelta(seconds=seconds)
        for _ in range(2):  # what is looked for again has been found
            with self._pool.connection() as connection:
                project(self._log, connection)
            claim_due(self._log, self._clock, self._pool, self._claim)
        self._scheduler.catch_up()


@pytest.fixture
def passing(
    log: EventLog,
    pool: ConnectionPool[Connection],
    clock: FixedClock,
    scheduler: OrderedConsumer,
    scheduling: Scheduling,
) -> Passing:
    return Passing(log, pool, clock, scheduler, scheduling)


@pytest.fixture
def refused(
    log: EventLog, history: History, scheduler: OrderedConsumer, launcher: FakeLauncher
) -> FakeLauncher:
    """A launcher that refused a job twice, the second time without a pause."""
    launcher.refuses = True
    history.open_pool()
    approve(log)
    for segment in (1, 2):
        scheduler.catch_up()
        assert job(log).runs(segment)
        lease(log, segment=segment)
    scheduler.catch_up()
    return launcher


def test_a_second_failed_launch_is_retried_later(
    log: EventLog, history: History, refused: FakeLauncher
) -> None:
    assert (job(log).segment, job(log).running) == (2, None)
    assert (history.pool.held, history.pool.queue) == ({}, {}), "it is in nobody's way"


def test_a_job_is_queued_when_its_relaunch_is_due(
    log: EventLog, refused: FakeLauncher, passing: Passing
) -> None:
    passing(seconds=29)
    assert job(log).segment == 2
    passing(seconds=1)
    assert job(log).runs(3)
    refused.refuses = False
    lease(log, segment=3)
    passing(seconds=1)
    assert job(log).pod is not None


def test_the_job_fails_after_the_last_retry(
    log: EventLog, history: History, refused: FakeLauncher, passing: Passing
) -> None:
    passing(seconds=30)
    lease(log, segment=3)
    passing(seconds=299)
    assert (job(log).segment, job(log).running) == (3, None)
    passing(seconds=1)
    lease(log, segment=4)
    passing(seconds=0)
    assert job(log).status is JobStatus.FAILED
    assert history.pool.held == {}, "and its GPUs are free again"


def test_another_job_uses_the_gpus_meanwhile(
    log: EventLog, history: History, refused: FakeLauncher, passing: Passing
) -> None:
    other = uuid4()
    approve(log, other)
    passing(seconds=30)
    assert job(log, other).running
    assert list(history.pool.queue) == [(JOB_ID, 3)]
    passing(seconds=60)
    assert list(history.pool.queue) == [(JOB_ID, 3)], "it stands there once"


def test_a_late_handler_queues_due_jobs(
    log: EventLog, history: History, clock: FixedClock, scheduler: OrderedConsumer
) -> None:
    history.open_pool()
    approve(log)
    for segment in (1, 2):
        scheduler.catch_up()
        end(log, segment, SegmentEnd.CRASHED)
    clock.time += timedelta(seconds=30)
    scheduler.catch_up()
    assert job(log).runs(3)


def test_a_resume_is_launched_without_a_pause(
    log: EventLog, refused: FakeLauncher, scheduler: OrderedConsumer
) -> None:
    with command("pause and resume"):
        waiting = job(log)
        waiting.pause()
        waiting.resume(None, 3_600_000, "test")
        log.commit(waiting)
    scheduler.catch_up()
    assert job(log).runs(3)


def test_a_paused_job_is_not_queued(
    log: EventLog, history: History, refused: FakeLauncher, passing: Passing
) -> None:
    with command("pause"):
        waiting = job(log)
        waiting.pause()
        log.commit(waiting)
    passing(seconds=60)
    assert history.pool.queue == {}
    assert pause_reason(history) is PauseReason.OWNER


def test_a_due_job_that_cannot_pay_is_paused(
    log: EventLog, history: History, refused: FakeLauncher, passing: Passing
) -> None:
    with command("settle"):
        meter = history.meter(2)
        meter.close(0, 60)
        log.commit(meter)
    spend(history)
    passing(seconds=60)
    assert pause_reason(history) is PauseReason.BALANCE


def test_a_failing_relaunch_does_not_block_others(
    log: EventLog,
    pool: ConnectionPool[Connection],
    refused: FakeLauncher,
    clock: FixedClock,
    scheduling: Scheduling,
) -> None:
    with pool.connection() as connection:
        project(log, connection)
        connection.execute(
            "CREATE TEMP TABLE copy AS SELECT * FROM job_detail; "
            "UPDATE copy SET job_id = gen_random_uuid(), relaunch_at = approved_at;"
            "INSERT INTO job_detail SELECT * FROM copy; DROP TABLE copy"
        )
    clock.time += timedelta(seconds=30)
    claim_due(log, clock, pool, scheduling.claim)
    assert list(History(log).pool.queue) == [(JOB_ID, 3)]


def test_a_crash_after_progress_is_relaunched_at_once(
    log: EventLog, history: History, scheduler: OrderedConsumer
) -> None:
    history.open_pool()
    approve(log)
    scheduler.catch_up()
    history.save_checkpoint(1, 10, 40)
    end(log, reason=SegmentEnd.CRASHED)
    scheduler.catch_up()
    assert job(log).runs(2)
