"""Billing's event handlers: given events, when one more, then events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from domain.core.aggregate import Cause, Event, because
from domain.core.event_log import EventLog
from domain.jobs import events
from domain.jobs.job import SegmentEnd
from infrastructure.bus.event_handlers import EventHandlers
from services.billing.handlers import Metering
from services.billing.settlement import MeteredSegment, settle
from tests.builders.commands import FixedClock, command
from tests.builders.examples import POLICY, ending
from tests.builders.history import BOUND_AT, History

Handle = Callable[[type[Event]], list[Any]]


@pytest.fixture(autouse=True)
def cause() -> Iterator[Cause]:
    with command("billing:1") as cause:
        yield cause


@pytest.fixture
def handle(log: EventLog, history: History) -> Handle:
    """Handles the job's last event of a kind, at 280 s. Returns the new events, and saves them."""
    metering = Metering(log, POLICY, FixedClock(BOUND_AT + timedelta(seconds=280)).now)
    handlers = EventHandlers(metering.handlers)

    def handle(kind: type[Event]) -> list[Any]:
        changed = handlers.handle(history.last(kind))
        new = [event for each in changed for event in each.pending_events]
        log.commit(*changed)
        return new

    return handle


def topics(new: list[Any]) -> list[str]:
    return [type(event).TOPIC for event in new]


def end(
    history: History, reason: SegmentEnd, elapsed: int, grace: int = 0, after_seconds: int = 1800
) -> None:
    """End the segment some seconds after its GPUs were bound."""
    cause = Cause("service:scheduler", "end", BOUND_AT + timedelta(seconds=after_seconds))
    with because(cause):
        job = history.job
        job.end_segment(1, ending(reason, elapsed, grace_seconds=grace))
        history.log.commit(job)


def allocate_with_balance(history: History, balance_micros: int) -> None:
    history.open_account(balance_micros)
    history.open_pool()
    history.approve_job()
    history.allocate_segment(1)


def test_a_segment_with_its_gpus_gets_one_meter_and_its_first_lease(
    history: History, handle: Handle
) -> None:
    history.run_until("allocated")
    new = handle(events.SegmentAllocated)
    assert topics(new) == ["MeterOpened", "LeaseGranted", "UsageSettled"]
    assert handle(events.SegmentAllocated) == []


def test_without_money_for_a_second_the_lease_is_refused(history: History, handle: Handle) -> None:
    allocate_with_balance(history, 999)
    assert topics(handle(events.SegmentAllocated)) == ["MeterOpened", "LeaseRefused"]
    end(history, SegmentEnd.LEASE_ENDED, 0)
    assert topics(handle(events.SegmentEnded)) == ["MeterClosed", "BalanceDepleted"]


def test_the_first_lease_is_limited_by_the_balance(history: History, handle: Handle) -> None:
    allocate_with_balance(history, 100_500)
    handle(events.SegmentAllocated)
    assert (history.meter(1).paid_seconds, history.account.available_micros) == (100, 500)


def test_a_segment_that_never_got_a_meter_has_nothing_to_settle(
    history: History, handle: Handle
) -> None:
    history.run_until("allocated")
    end(history, SegmentEnd.CRASHED, 0)
    assert handle(events.SegmentEnded) == []


def test_an_ended_segment_is_settled_once(history: History, handle: Handle) -> None:
    history.run_until("training")
    end(history, SegmentEnd.COMPLETED, 75)
    assert topics(handle(events.SegmentEnded)) == [
        *("MinuteMetered", "MinuteMetered", "MeterClosed", "UsageSettled")
    ]
    assert handle(events.SegmentEnded) == []


@pytest.mark.parametrize(
    ("times", "billed_seconds"),
    [
        ({"elapsed": 75, "after_seconds": 70}, 70),
        ({"elapsed": 10_000, "after_seconds": 70}, 70),
        ({"elapsed": 10_000, "after_seconds": 7200}, 280),
        ({"elapsed": 265, "grace": 25}, 240),
    ],
    ids=["a late end", "a trainer's clock jump", "a scheduler's clock jump", "grace"],
)
def test_billed_time_is_limited(
    history: History, handle: Handle, times: dict[str, int], billed_seconds: int
) -> None:
    """By the scheduler's time, by the database's time and by the grace period."""
    history.run_until("training")
    end(history, SegmentEnd.LEASE_ENDED, **times)
    handle(events.SegmentEnded)
    assert history.meter(1).billed_seconds == billed_seconds


@pytest.mark.parametrize(
    ("times", "cost_seconds"),
    [
        ({"elapsed": 265, "grace": 25}, 240),
        ({"elapsed": 200, "grace": 30}, 170),
        ({"elapsed": 300, "after_seconds": 200}, 200),
    ],
    ids=["nothing", "its grace", "time after its end"],
)
def test_an_overbilled_tick_is_credited(
    history: History, handle: Handle, times: dict[str, int], cost_seconds: int
) -> None:
    history.run_until("training")
    balance = history.account.balance_micros
    payer, meter = history.account, history.meter(1)
    settle(payer, [MeteredSegment(meter, 240)], POLICY)
    history.log.commit(payer, meter)
    end(history, SegmentEnd.LEASE_ENDED, **times)
    handle(events.SegmentEnded)
    assert balance - history.account.balance_micros == cost_seconds * 1000
    assert history.account.reserved_micros == 0


def test_a_crash_is_credited_back_to_the_last_checkpoint(history: History, handle: Handle) -> None:
    history.run_until("training")
    history.save_checkpoint(1, 10, 40)
    end(history, SegmentEnd.CRASHED, 50)
    assert topics(handle(events.SegmentEnded)) == [
        *("MinuteMetered", "MeterClosed", "LostWorkCredited"),
        *("UsageSettled", "ChargeReversed"),
    ]


def test_work_lost_with_a_checkpoint_is_credited_once(history: History, handle: Handle) -> None:
    history.run_until("training")
    history.save_checkpoint(1, 10, 40)
    history.save_checkpoint(1, 20, 60)
    history.pause()
    history.end_segment(1, SegmentEnd.STOPPED, 75)
    history.resume()
    history.allocate_segment(2)
    history.reject_checkpoint(2, "checkpoints/1/20")
    before = history.account.balance_micros
    assert topics(handle(events.CheckpointRejected)) == ["LostWorkCredited", "ChargeReversed"]
    assert history.account.balance_micros - before == 35_000
    assert handle(events.CheckpointRejected) == []


def test_work_of_other_segments_lost_with_a_checkpoint_is_credited(
    history: History, handle: Handle
) -> None:
    """The job restarts at step 0, so that the customer pays for none of its segments."""
    history.run_until("training")
    before = history.account.balance_micros
    for segment in (1, 2):
        if segment == 2:
            history.resume()
            history.allocate_segment(2)
            handle(events.SegmentAllocated)
            history.start_pod(2)
        history.save_checkpoint(segment, 10 * segment, 40)
        history.pause()
        history.end_segment(segment, SegmentEnd.STOPPED, 75)
        handle(events.SegmentEnded)
    assert before - history.account.balance_micros == 150_000
    history.resume()
    history.allocate_segment(3)
    history.reject_checkpoint(3, "checkpoints/1/10")
    history.reject_checkpoint(3, "checkpoints/2/20")
    handle(events.CheckpointRejected)
    assert history.account.balance_micros == before


def limits(history: History, max_cost_micros: int | None) -> None:
    """Change the maximum cost of the job, as its owner."""
    with history.changing_job() as job:
        job.change_max_cost(max_cost_micros)


def relaunch(history: History) -> None:
    """Allocate GPUs to the next segment."""
    with history.changing_job() as job:
        job.allocate_segment(2)


def test_the_first_lease_is_limited_by_the_maximum_cost(history: History, handle: Handle) -> None:
    allocate_with_balance(history, 1_000_000)
    limits(history, 100_500)
    handle(events.SegmentAllocated)
    assert (history.meter(1).paid_seconds, history.meter(1).limit_micros) == (100, 100_500)


def test_a_later_segment_may_cost_what_the_earlier_ones_left(
    history: History, handle: Handle
) -> None:
    allocate_with_balance(history, 1_000_000)
    limits(history, 200_000)
    handle(events.SegmentAllocated)
    history.start_pod(1)
    history.save_checkpoint(1, 10, 40)
    end(history, SegmentEnd.CRASHED, 75)
    handle(events.SegmentEnded)
    relaunch(history)
    handle(events.SegmentAllocated)
    assert history.meter(2).limit_micros == 160_000, "35 s are credited"


def test_a_used_up_maximum_cost_refuses_the_lease(history: History, handle: Handle) -> None:
    allocate_with_balance(history, 1_000_000)
    handle(events.SegmentAllocated)
    history.start_pod(1)
    end(history, SegmentEnd.LEASE_ENDED, 75)
    handle(events.SegmentEnded)
    limits(history, 75_999)
    relaunch(history)
    assert topics(handle(events.SegmentAllocated)) == ["MeterOpened", "LeaseRefused"]


@pytest.mark.parametrize("max_cost_micros", [400_000, None])
def test_a_new_maximum_cost_limits_the_running_segment(
    history: History, handle: Handle, max_cost_micros: int | None
) -> None:
    allocate_with_balance(history, 1_000_000)
    limits(history, 100_000)
    handle(events.SegmentAllocated)
    limits(history, max_cost_micros)
    assert topics(handle(events.MaxCostChanged)) == ["SegmentLimitChanged"]
    assert history.meter(1).limit_micros == max_cost_micros
    assert handle(events.MaxCostChanged) == []


def test_a_new_maximum_cost_of_a_job_that_does_not_run_changes_no_meter(
    history: History, handle: Handle
) -> None:
    history.open_account(1_000_000)
    history.open_pool()
    history.approve_job()
    limits(history, 100_000)
    assert handle(events.MaxCostChanged) == []


def test_credited_work_raises_the_limit_of_the_running_segment(
    history: History, handle: Handle
) -> None:
    allocate_with_balance(history, 1_000_000)
    limits(history, 200_000)
    handle(events.SegmentAllocated)
    history.start_pod(1)
    history.save_checkpoint(1, 10, 40)
    history.save_checkpoint(1, 20, 60)
    end(history, SegmentEnd.LEASE_ENDED, 75)
    handle(events.SegmentEnded)
    relaunch(history)
    handle(events.SegmentAllocated)
    before = history.meter(2).limit_micros
    history.reject_checkpoint(2, "checkpoints/1/20")
    credited = [
        *("LostWorkCredited", "ChargeReversed", "SegmentLimitChanged"),
    ]
    assert sorted(topics(handle(events.CheckpointRejected))) == sorted(credited)
    assert (before, history.meter(2).limit_micros) == (125_000, 160_000)


def test_other_events_are_ignored(history: History, handle: Handle) -> None:
    history.run_until("training")
    assert handle(events.TrainingStarted) == []


def test_a_relaunch_gets_what_the_guarantee_leaves(history: History, handle: Handle) -> None:
    history.run_covered(250)
    history.allocate_segment(2)
    opened, granted = handle(events.SegmentAllocated)
    assert (opened.guarantee_micros, opened.most_seconds) == (0, 3 * 156 - 250)
    assert granted.paid_seconds == 218  # without a balance


def test_a_maximum_cost_above_the_guarantee_limits_no_segment(
    history: History, handle: Handle
) -> None:
    history.run_covered(100)
    for limit in (156_000, 155_000):
        with history.changing_job() as job:
            job.change_max_cost(limit)
    history.allocate_segment(2)
    opened, *_ = handle(events.SegmentAllocated)
    assert (opened.limit_micros, opened.guarantee_micros) == (55_000, 56_000)
    with history.changing_job() as job:
        job.change_max_cost(156_000)
    (changed,) = handle(events.MaxCostChanged)
    assert changed.limit_micros is None
