"""Jobs without money for a launch are paused."""

from __future__ import annotations

from uuid import uuid4

import pytest

from domain.billing.meter import Meter
from domain.core.event_log import EventLog
from domain.jobs import events
from domain.jobs.job import SegmentEnd
from domain.jobs.lifecycle import PauseReason
from infrastructure.consumer import OrderedConsumer
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID, JOB_ID, PLAN
from tests.builders.history import History
from tests.services.scheduler.fake_launcher import FakeLauncher
from tests.services.scheduler.others import approve, end, job, pause_reason, spend

pytestmark = pytest.mark.usefixtures("no_parking")


def poor_job(log: EventLog) -> History:
    """A job whose account cannot pay one minute."""
    poor = History(log, account_id=uuid4(), job_id=uuid4())
    poor.open_account(59_999)
    approve(log, poor.job_id, poor.account_id)
    return poor


def test_a_job_without_money_for_a_minute_is_paused(
    log: EventLog, history: History, scheduler: OrderedConsumer
) -> None:
    history.open_pool()
    poor = poor_job(log)
    approve(log)
    scheduler.catch_up()
    assert pause_reason(poor) is PauseReason.BALANCE
    assert job(log).running, "it is not in the way of those who can pay"


def test_a_job_that_cannot_pay_when_its_turn_comes_is_paused(
    log: EventLog, history: History, scheduler: OrderedConsumer
) -> None:
    waiting, behind = History(log, uuid4(), uuid4()), uuid4()
    waiting.open_account(10_000_000)
    history.open_pool(1)
    approve(log)
    approve(log, waiting.job_id, waiting.account_id)
    approve(log, behind)
    scheduler.catch_up()
    spend(waiting)
    end(log, reason=SegmentEnd.COMPLETED)
    scheduler.catch_up()
    assert pause_reason(waiting) is PauseReason.BALANCE
    assert job(log, behind).running, "the next in the queue has its turn"


def test_a_refused_lease_ends_the_segment_at_no_cost_and_pauses(
    log: EventLog, history: History, scheduler: OrderedConsumer, launcher: FakeLauncher
) -> None:
    history.open_pool()
    approve(log)
    scheduler.catch_up()
    with command("refuse"):
        meter = Meter.open(ACCOUNT_ID, JOB_ID, 1, PLAN.rate_micros_per_hour)
        meter.refuse_lease()
        log.commit(meter)
    scheduler.catch_up()
    assert pause_reason(history) is PauseReason.BALANCE
    assert (history.pool.held, history.pool.queue, launcher.started) == ({}, {}, [])
    (ended,) = [e for e in log.events.get(JOB_ID) if isinstance(e, events.SegmentEnded)]
    assert (ended.reason, ended.elapsed_seconds) == (SegmentEnd.LEASE_ENDED, 0)


def test_an_unsettled_lease_counts_as_money(
    log: EventLog, history: History, scheduler: OrderedConsumer
) -> None:
    """Otherwise a job with a small balance would pause at every relaunch."""
    history.open_pool()
    approve(log)
    scheduler.catch_up()
    history.grant_lease(1)
    spend(history)
    end(log, reason=SegmentEnd.CRASHED)
    scheduler.catch_up()
    assert job(log).runs(2)


def test_after_settlement_only_the_balance_counts(
    log: EventLog, history: History, scheduler: OrderedConsumer
) -> None:
    history.open_pool()
    approve(log)
    scheduler.catch_up()
    history.grant_lease(1)
    history.end_segment(1, SegmentEnd.LEASE_ENDED, 300)
    spend(history)
    scheduler.catch_up()
    assert pause_reason(history) is PauseReason.BALANCE
