"""Billing's event handlers: given events, when one more, then events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

import pytest

from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.core.aggregate import Aggregate, Cause, Event, because
from domain.core.event_log import EventLog
from domain.jobs import events
from domain.jobs.job import SegmentEnd
from services.billing.handlers import Metering
from services.billing.settlement import Running, settle
from tests.builders.commands import NOW, FixedClock, command
from tests.builders.examples import POLICY, ending
from tests.builders.history import BOUND_AT, History


@pytest.fixture(autouse=True)
def cause() -> Iterator[Cause]:
    with command("billing:1") as cause:
        yield cause


@pytest.fixture
def history(log: EventLog) -> History:
    return History(log)


@pytest.fixture
def clock() -> FixedClock:
    """The database's time, an hour later."""
    return FixedClock(NOW + timedelta(hours=1))


@pytest.fixture
def metering(log: EventLog, clock: FixedClock) -> Metering:
    return Metering(log, POLICY, clock.now)


def last(log: EventLog, history: History, kind: type[Event]) -> Event:
    """The job's last event of a kind."""
    return [event for event in log.events.get(history.job_id) if isinstance(event, kind)][-1]


def topics(aggregates: Sequence[Aggregate]) -> list[str]:
    return [type(event).TOPIC for each in aggregates for event in each.pending_events]  # type: ignore[attr-defined]


def ended(
    history: History,
    reason: SegmentEnd,
    elapsed_seconds: int,
    *,
    grace_seconds: int = 0,
    after: timedelta = timedelta(minutes=30),
) -> None:
    """End the segment some seconds after its GPUs were bound."""
    with because(Cause("service:scheduler", "end", BOUND_AT + after)):
        job = history.job
        job.end_segment(1, ending(reason, elapsed_seconds, grace_seconds=grace_seconds))
        history.log.commit(job)


def test_a_segment_with_its_gpus_gets_a_meter_and_its_first_lease(
    log: EventLog, history: History, metering: Metering
) -> None:
    history.run_until("allocated")
    answer = metering.handle(last(log, history, events.SegmentAllocated))
    assert topics(answer) == ["MeterOpened", "LeaseGranted", "UsageSettled"]


def test_without_money_for_a_second_the_lease_is_refused(
    log: EventLog, history: History, metering: Metering
) -> None:
    history.open_account(999)
    history.open_pool()
    history.approve_job()
    history.allocate_segment(1)
    answer = metering.handle(last(log, history, events.SegmentAllocated))
    assert topics(answer) == ["MeterOpened", "LeaseRefused"]
    log.commit(*answer)
    ended(history, SegmentEnd.LEASE_ENDED, 0)
    answer = metering.handle(last(log, history, events.SegmentEnded))
    assert topics(answer) == ["MeterClosed", "BalanceDepleted"]


def test_the_first_lease_is_limited_by_the_balance(
    log: EventLog, history: History, metering: Metering
) -> None:
    history.open_account(100_500)
    history.open_pool()
    history.approve_job()
    history.allocate_segment(1)
    meter, account = metering.handle(last(log, history, events.SegmentAllocated))
    assert isinstance(meter, Meter)
    assert isinstance(account, Account)
    assert (meter.paid_seconds, account.available_micros) == (100, 500)


def test_a_segment_that_never_got_a_meter_has_nothing_to_settle(
    log: EventLog, history: History, metering: Metering
) -> None:
    history.run_until("allocated")
    ended(history, SegmentEnd.CRASHED, 0)
    assert metering.handle(last(log, history, events.SegmentEnded)) == []


def test_a_segment_has_one_meter(log: EventLog, history: History, metering: Metering) -> None:
    history.run_until("leased")
    assert metering.handle(last(log, history, events.SegmentAllocated)) == []


def test_an_ended_segment_is_settled(log: EventLog, history: History, metering: Metering) -> None:
    history.run_until("training")
    ended(history, SegmentEnd.COMPLETED, 75)
    answer = metering.handle(last(log, history, events.SegmentEnded))
    assert topics(answer) == ["MinuteMetered", "MinuteMetered", "MeterClosed", "UsageSettled"]


@pytest.mark.parametrize("elapsed_seconds", [75, 10_000])
def test_a_trainers_clock_jump_bills_at_most_scheduler_time(
    log: EventLog, history: History, metering: Metering, elapsed_seconds: int
) -> None:
    history.run_until("training")
    ended(history, SegmentEnd.COMPLETED, elapsed_seconds, after=timedelta(seconds=70))
    (meter, _) = metering.handle(last(log, history, events.SegmentEnded))
    assert isinstance(meter, Meter)
    assert meter.billed_seconds == 70


def test_a_schedulers_clock_jump_bills_at_most_database_time(
    log: EventLog, history: History, metering: Metering, clock: FixedClock
) -> None:
    history.run_until("training")
    clock.time = BOUND_AT + timedelta(seconds=60)
    ended(history, SegmentEnd.COMPLETED, 10_000)
    (meter, _) = metering.handle(last(log, history, events.SegmentEnded))
    assert isinstance(meter, Meter)
    assert meter.billed_seconds == 60


def test_grace_is_not_billed_even_if_the_lease_was_extended_meanwhile(
    log: EventLog, history: History, metering: Metering
) -> None:
    history.run_until("training")
    ended(history, SegmentEnd.LEASE_ENDED, 265, grace_seconds=25)
    (meter, _) = metering.handle(last(log, history, events.SegmentEnded))
    assert isinstance(meter, Meter)
    assert meter.billed_seconds == 240


@pytest.mark.parametrize(
    ("elapsed_seconds", "grace_seconds", "after_seconds", "cost_seconds"),
    [(265, 25, 1800, 240), (200, 30, 1800, 170), (300, 0, 200, 200)],
    ids=["nothing", "its grace", "time after its end"],
)
def test_an_overbilled_tick_is_credited(
    log: EventLog,
    history: History,
    metering: Metering,
    elapsed_seconds: int,
    grace_seconds: int,
    after_seconds: int,
    cost_seconds: int,
) -> None:
    history.run_until("training")
    balance = history.account.balance_micros
    with command("tick"):
        payer, meter = history.account, history.meter(1)
        settle(payer, [Running(meter, 240)], POLICY)
        log.commit(payer, meter)
    ended(
        history,
        SegmentEnd.LEASE_ENDED,
        elapsed_seconds,
        grace_seconds=grace_seconds,
        after=timedelta(seconds=after_seconds),
    )
    (_, payer) = metering.handle(last(log, history, events.SegmentEnded))
    assert isinstance(payer, Account)
    assert balance - payer.balance_micros == cost_seconds * 1000
    assert payer.reserved_micros == 0


def test_a_crash_is_credited_back_to_the_last_checkpoint(
    log: EventLog, history: History, metering: Metering
) -> None:
    history.run_until("training")
    history.save_checkpoint(1, 10, 40)
    ended(history, SegmentEnd.CRASHED, 50)
    answer = metering.handle(last(log, history, events.SegmentEnded))
    assert topics(answer) == [
        *("MinuteMetered", "MeterClosed", "LostWorkCredited"),
        *("UsageSettled", "ChargeReversed"),
    ]


def test_work_lost_with_a_checkpoint_is_credited(
    log: EventLog, history: History, metering: Metering
) -> None:
    history.run_until("training")
    history.save_checkpoint(1, 10, 40)
    history.save_checkpoint(1, 20, 60)
    history.pause()
    history.end_segment(1, SegmentEnd.STOPPED, 75)
    history.resume()
    history.allocate_segment(2)
    history.reject_checkpoint(2, "checkpoints/1/20")
    before = history.account.balance_micros
    meter, payer = answer = metering.handle(last(log, history, events.CheckpointRejected))
    assert topics(answer) == ["LostWorkCredited", "ChargeReversed"]
    assert isinstance(payer, Account)
    assert isinstance(meter, Meter)
    assert payer.balance_micros - before == 35_000
    log.commit(*answer)
    assert topics(metering.handle(last(log, history, events.CheckpointRejected))) == []


def test_a_segment_is_settled_once(log: EventLog, history: History, metering: Metering) -> None:
    history.run_until("training")
    history.end_segment(1, SegmentEnd.COMPLETED, 75)
    assert metering.handle(last(log, history, events.SegmentEnded)) == []


def test_other_events_are_not_handled(log: EventLog, history: History, metering: Metering) -> None:
    history.run_until("training")
    assert metering.handle(last(log, history, events.TrainingStarted)) == []
