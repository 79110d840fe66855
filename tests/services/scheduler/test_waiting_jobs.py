"""A job without money waits outside the queue, and gets into it by itself after a top-up."""

from __future__ import annotations

import pytest
from psycopg_pool import ConnectionPool

from domain.account import Account
from domain.event_log import EventLog
from domain.job import Job, SegmentEnd
from infrastructure.consumer import OrderedConsumer
from infrastructure.settings import Settings
from infrastructure.store import Connection
from projections import JOB_DETAIL
from projections.projection import ProjectionEffect
from services.scheduler.handlers import Scheduling
from services.scheduler.waiting_jobs import WaitingJobs
from tests.causes import FixedClock, command
from tests.domain.examples import ACCOUNT_ID, JOB_ID, PLAN
from tests.services.scheduler.conftest import NotedControl
from tests.services.scheduler.fake_launcher import FakeLauncher
from tests.stories import Story


@pytest.fixture
def waiting(
    log: EventLog,
    pool: ConnectionPool[Connection],
    launcher: FakeLauncher,
    control: NotedControl,
    settings: Settings,
) -> WaitingJobs:
    scheduling = Scheduling(log, launcher, control, settings)  # type: ignore[arg-type]
    return WaitingJobs(log, FixedClock(), pool, scheduling)


def look_again(log: EventLog, pool: ConnectionPool[Connection], waiting: WaitingJobs) -> None:
    """What happens every two seconds."""
    OrderedConsumer(ProjectionEffect(JOB_DETAIL, pool.connection), log).catch_up()
    waiting.claim_all()


def spend(log: EventLog) -> None:
    """Leases hold all that the account has."""
    with command("spend"):
        account = log.load(Account, ACCOUNT_ID)
        account.settle(captured_micros=0, reserved_micros=account.available_micros)
        log.commit(account)


def test_a_job_that_cannot_pay_holds_no_place_until_it_can(
    log: EventLog,
    pool: ConnectionPool[Connection],
    story: Story,
    scheduler: OrderedConsumer,
    waiting: WaitingJobs,
) -> None:
    story.open_pool()
    with command("approve"):
        log.commit(Job.approve(JOB_ID, ACCOUNT_ID, PLAN))
    scheduler.catch_up()
    assert story.job.segment_running
    spend(log)
    with command("end"):
        job, gpus = story.job, story.pool
        job.end_segment(1, SegmentEnd.LEASE_ENDED, 300)
        gpus.release(JOB_ID, 1)
        log.commit(job, gpus)
    scheduler.catch_up()
    look_again(log, pool, waiting)
    scheduler.catch_up()
    assert not story.job.segment_running
    assert not story.pool.queue

    with command("top up"):
        account = story.account
        account.grant_credit(1_000_000, "top-up")
        log.commit(account)
    look_again(log, pool, waiting)
    look_again(log, pool, waiting)
    scheduler.catch_up()
    assert story.job.segment == 2
    assert story.job.segment_running
