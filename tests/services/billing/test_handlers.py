"""Billing's reactions: given events, when one more, then events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from domain.aggregate import Aggregate, Cause, Event
from domain.event_log import EventLog
from domain.job import Job, SegmentEnd
from services.billing.handlers import Metering
from services.billing.settlement import LeasePolicy
from tests.causes import command
from tests.stories import Story

POLICY = LeasePolicy(minute_seconds=60, lease_seconds=300, extension_seconds=60)


@pytest.fixture(autouse=True)
def cause() -> Iterator[Cause]:
    with command("billing:1") as cause:
        yield cause


@pytest.fixture
def story(log: EventLog) -> Story:
    return Story(log)


@pytest.fixture
def metering(log: EventLog) -> Metering:
    return Metering(log, POLICY)


def last(log: EventLog, story: Story, kind: type[Event]) -> Event:
    """The job's last event of a kind."""
    return [event for event in log.events.get(story.job_id) if isinstance(event, kind)][-1]


def topics(aggregates: Sequence[Aggregate]) -> list[str]:
    return [type(event).TOPIC for each in aggregates for event in each.pending_events]  # type: ignore[attr-defined]


def ended(story: Story, reason: SegmentEnd, elapsed_seconds: int) -> None:
    """The segment's end as the scheduler records it."""
    job = story.job
    job.end_segment(1, reason, elapsed_seconds)
    story.log.commit(job)


def test_a_segment_with_its_gpus_gets_a_meter_and_its_first_lease(
    log: EventLog, story: Story, metering: Metering
) -> None:
    story.run_until("allocated")
    answer = metering.react(last(log, story, Job.SegmentAllocated))
    assert topics(answer) == ["MeterOpened", "LeaseGranted", "UsageSettled"]


def test_without_money_the_meter_opens_and_waits(
    log: EventLog, story: Story, metering: Metering
) -> None:
    story.open_account(999)
    story.open_pool()
    story.approve_job()
    story.allocate_segment(1)
    answer = metering.react(last(log, story, Job.SegmentAllocated))
    assert "LeaseGranted" not in topics(answer)
    assert "MeterOpened" in topics(answer)


def test_a_segment_has_one_meter(log: EventLog, story: Story, metering: Metering) -> None:
    story.run_until("leased")
    assert metering.react(last(log, story, Job.SegmentAllocated)) == []


def test_an_ended_segment_is_settled(log: EventLog, story: Story, metering: Metering) -> None:
    story.run_until("training")
    ended(story, SegmentEnd.COMPLETED, 75)
    answer = metering.react(last(log, story, Job.SegmentEnded))
    assert topics(answer) == ["MinuteMetered", "MinuteMetered", "MeterClosed", "UsageSettled"]


def test_a_crash_is_credited_back_to_the_last_checkpoint(
    log: EventLog, story: Story, metering: Metering
) -> None:
    story.run_until("training")
    story.save_checkpoint(1, 10, 40)
    ended(story, SegmentEnd.CRASHED, 50)
    answer = metering.react(last(log, story, Job.SegmentEnded))
    assert topics(answer) == [
        *("MinuteMetered", "MeterClosed", "LostWorkCredited"),
        *("UsageSettled", "ChargeReversed"),
    ]


def test_a_segment_is_settled_once(log: EventLog, story: Story, metering: Metering) -> None:
    story.run_until("training")
    story.end_segment(1, SegmentEnd.COMPLETED, 75)
    assert metering.react(last(log, story, Job.SegmentEnded)) == []


def test_other_events_are_none_of_its_business(
    log: EventLog, story: Story, metering: Metering
) -> None:
    story.run_until("training")
    assert metering.react(last(log, story, Job.TrainingStarted)) == []
