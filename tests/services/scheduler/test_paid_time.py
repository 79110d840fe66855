"""The end of paid time: relaunch, pause and overrun."""

from __future__ import annotations

import pytest

from domain.core.event_log import EventLog
from domain.jobs import events
from domain.jobs.job import JobStatus, SegmentEnd
from domain.jobs.lifecycle import PauseReason
from infrastructure.reports import Phase, Report
from services.scheduler.launchers.launcher import PodName
from services.scheduler.segments import Segments
from services.trainer.lease import OVERRUN_EXIT_CODE
from tests.builders.commands import command
from tests.builders.examples import JOB_ID
from tests.builders.history import History
from tests.builders.reports import CHECKPOINT, report
from tests.services.scheduler.others import spend

NAME = PodName(JOB_ID, 1)


def last_end(log: EventLog) -> events.SegmentEnded:
    return [event for event in log.events.get(JOB_ID) if isinstance(event, events.SegmentEnded)][-1]


def lease_ended(n: int, elapsed_seconds: float) -> Report:
    return report(
        n, Phase.TRAINING, outcome=SegmentEnd.LEASE_ENDED, elapsed_seconds=elapsed_seconds
    )


def test_a_lease_that_ends_without_money_pauses_the_job(
    history: History, running: Segments
) -> None:
    spend(history)
    running.record(lease_ended(9, 300.4))
    assert history.job.status is JobStatus.PAUSED
    assert history.pool.held == {}


def test_a_lease_that_ends_with_money_relaunches_the_job(
    history: History, running: Segments
) -> None:
    running.record(lease_ended(9, 300.4))
    assert history.job.next_segment == 2


def test_a_lease_extension_unknown_to_the_trainer_counts_as_money(
    history: History, running: Segments
) -> None:
    with command("extend"):
        account, meter = history.account, history.meter(1)
        account.settle(captured_micros=0, reserved_micros=meter.extend_lease(60))
        history.log.commit(account, meter)
    spend(history)
    running.record(lease_ended(9, 300.4))
    assert history.job.next_segment == 2


def leave(history: History, micros: int) -> None:
    """Reserve the balance for leases, except for some micro-dollars."""
    with command("spend most"):
        account = history.account
        account.settle(captured_micros=0, reserved_micros=account.available_micros - micros)
        history.log.commit(account)


@pytest.mark.parametrize(
    ("micros", "status"), [(59_999, JobStatus.PAUSED), (60_000, JobStatus.TRAINING)]
)
def test_money_for_less_than_a_minute_does_not_count(
    history: History, running: Segments, micros: int, status: JobStatus
) -> None:
    """The balance is near zero, and the ticker has not recorded the depletion yet."""
    leave(history, micros)
    running.record(lease_ended(9, 300.4))
    assert history.job.status is status


def test_one_unknown_paid_second_is_too_little(history: History, running: Segments) -> None:
    spend(history)
    running.record(lease_ended(9, 299.9))
    assert history.job.status is JobStatus.PAUSED


def test_an_overrun_counts_as_an_ended_lease(
    log: EventLog, history: History, running: Segments
) -> None:
    running.record(report(1, Phase.TRAINING, checkpoint=CHECKPOINT))
    running.lose(NAME, 318, OVERRUN_EXIT_CODE, {Phase.TRAINING: 310.0}, 18)
    end = last_end(log)
    assert (end.reason, end.failure, end.error_class) == (SegmentEnd.LEASE_ENDED, None, None)
    assert (end.elapsed_seconds, end.grace_seconds, end.kept_seconds) == (318, 18, 40)
    assert (history.job.crashes, history.job.next_segment) == (0, 2)
    assert history.pool.held == {}


@pytest.mark.parametrize("known_seconds", [318, 290], ids=["all", "too little"])
def test_an_overrun_without_money_pauses_despite_credits(
    log: EventLog, history: History, running: Segments, known_seconds: int
) -> None:
    spend(history)
    running.lose(NAME, known_seconds, OVERRUN_EXIT_CODE)
    last = list(log.events.get(JOB_ID))[-1]
    assert isinstance(last, events.JobPaused)
    assert (last.reason, last_end(log).kept_seconds) == (PauseReason.BALANCE, 0)
