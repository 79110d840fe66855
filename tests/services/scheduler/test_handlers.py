"""The scheduler's reactions: GPUs for jobs first come first served, launches for leases."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from psycopg_pool import ConnectionPool

from domain.event_log import EventLog
from domain.identity import meter_id
from domain.job import RELAUNCH_LIMIT, Job, JobStatus, SegmentEnd
from domain.meter import Meter
from infrastructure.consumer import OrderedConsumer
from infrastructure.reaction import parked_reactions
from infrastructure.settings import Settings
from infrastructure.store import Connection
from services.scheduler.app import offer_capacity
from services.scheduler.handlers import Scheduling
from services.scheduler.launchers.launcher import PodName
from tests.causes import FixedClock, command
from tests.domain.examples import ACCOUNT_ID, JOB_ID, PLAN
from tests.services.scheduler.conftest import NotedControl
from tests.services.scheduler.fake_launcher import FakeLauncher
from tests.stories import Story


def approve(log: EventLog, job_id: UUID = JOB_ID, account_id: UUID = ACCOUNT_ID) -> None:
    """What the gateway does."""
    with command(f"approve {job_id}"):
        log.commit(Job.approve(job_id, account_id, PLAN))


def lease(log: EventLog, job_id: UUID = JOB_ID, segment: int = 1, seconds: int = 300) -> None:
    """What billing does."""
    with command(f"lease {job_id} {segment}"):
        meter = log.find(Meter, meter_id(job_id, segment)) or Meter.open(
            ACCOUNT_ID, job_id, segment, PLAN.rate_micros_per_hour
        )
        meter.extend_lease(seconds)
        log.commit(meter)


def end(log: EventLog, segment: int = 1, reason: SegmentEnd = SegmentEnd.STOPPED) -> None:
    """What the segment's reports do."""
    story = Story(log)
    with command(f"end {segment}"):
        job, pool = story.job, story.pool
        job.end_segment(segment, reason, 10)
        pool.release(JOB_ID, segment)
        log.commit(job, pool)


def job(log: EventLog, job_id: UUID = JOB_ID) -> Job:
    return log.load(Job, job_id)


@pytest.fixture(autouse=True)
def no_parking(pool: ConnectionPool[Connection]) -> Iterator[None]:
    """No reaction of any of these tests fails."""
    yield
    with pool.connection() as connection:
        assert parked_reactions(connection) == []


def test_a_job_from_its_approval_to_its_pod(
    log: EventLog, story: Story, scheduler: OrderedConsumer, launcher: FakeLauncher
) -> None:
    story.open_pool()
    approve(log)
    scheduler.catch_up()
    assert job(log).segment_running
    assert launcher.started == [], "without a lease there is no launch"
    lease(log)
    scheduler.catch_up()
    name = PodName(JOB_ID, 1)
    assert launcher.started == [name]
    assert job(log).pod == str(name)
    spec = launcher.specs[name]
    assert (spec.paid_seconds, spec.resume_from) == (300, None)
    assert (spec.dataset_ref, spec.base_ref) == (PLAN.dataset_ref, PLAN.base_ref)


def test_gpus_and_segment_are_given_in_one_save(
    log: EventLog, story: Story, scheduler: OrderedConsumer
) -> None:
    story.open_pool()
    approve(log)
    scheduler.catch_up()
    (allocated,) = [e for e in log.events.get(story.pool.id) if e.originator_version == 4]
    (begun,) = [e for e in log.events.get(JOB_ID) if e.originator_version == 2]
    assert (type(allocated).__name__, type(begun).__name__) == ("GpusAllocated", "SegmentAllocated")
    assert allocated.command_id == begun.command_id  # type: ignore[attr-defined]


def test_two_jobs_on_one_slot_run_in_the_order_of_their_approval(
    log: EventLog, story: Story, scheduler: OrderedConsumer
) -> None:
    second = uuid4()
    story.open_pool(1)
    approve(log)
    approve(log, second)
    scheduler.catch_up()
    assert (job(log).segment_running, job(log, second).segment_running) == (True, False)
    end(log, reason=SegmentEnd.COMPLETED)
    scheduler.catch_up()
    assert job(log, second).segment_running


def test_a_job_that_waits_begins_when_capacity_comes(
    log: EventLog, story: Story, scheduler: OrderedConsumer, launcher: FakeLauncher
) -> None:
    story.open_pool(0)
    approve(log)
    scheduler.catch_up()
    assert not job(log).segment_running
    offer_capacity(log, FixedClock(), launcher)
    scheduler.catch_up()
    assert job(log).segment_running


def test_capacity_that_is_offered_again_is_no_news(log: EventLog, launcher: FakeLauncher) -> None:
    offer_capacity(log, FixedClock(), launcher)
    version = Story(log).pool.version
    offer_capacity(log, FixedClock(), launcher)
    assert (Story(log).pool.version, Story(log).pool.capacity) == (version, 1)


def test_a_launch_that_was_not_recorded_is_adopted(
    log: EventLog,
    story: Story,
    scheduler: OrderedConsumer,
    launcher: FakeLauncher,
    control: NotedControl,
    settings: Settings,
) -> None:
    """The scheduler crashed between its launch and its save."""
    story.open_pool()
    approve(log)
    scheduler.catch_up()
    lease(log)
    crashed = Scheduling(log, launcher, control, settings)  # type: ignore[arg-type]
    (granted,) = [
        event
        for event in log.events.get(meter_id(JOB_ID, 1))
        if isinstance(event, Meter.LeaseGranted)
    ]
    with command("never saved"):
        assert crashed.react(granted) != []
    scheduler.catch_up()
    assert launcher.started == [PodName(JOB_ID, 1)]
    assert job(log).pod is not None


def test_a_lease_for_a_segment_that_is_over_launches_nothing(
    log: EventLog, story: Story, scheduler: OrderedConsumer, launcher: FakeLauncher
) -> None:
    story.open_pool()
    approve(log)
    scheduler.catch_up()
    end(log, reason=SegmentEnd.CRASHED)
    lease(log)
    scheduler.catch_up()
    assert launcher.started == []


def test_a_place_that_refuses_is_tried_again_a_few_times(
    log: EventLog, story: Story, scheduler: OrderedConsumer, launcher: FakeLauncher
) -> None:
    story.open_pool()
    launcher.refuses = True
    approve(log)
    for segment in range(1, RELAUNCH_LIMIT + 2):
        scheduler.catch_up()
        assert job(log).segment == segment
        lease(log, segment=segment)
    scheduler.catch_up()
    assert job(log).status is JobStatus.FAILED
    assert story.pool.held == {}, "and its GPUs are free again"


def test_what_crashed_is_relaunched_from_its_last_checkpoint(
    log: EventLog, story: Story, scheduler: OrderedConsumer, launcher: FakeLauncher
) -> None:
    story.open_pool()
    approve(log)
    scheduler.catch_up()
    lease(log)
    scheduler.catch_up()
    story.save_checkpoint(1, 10, 40)
    end(log, reason=SegmentEnd.CRASHED)
    scheduler.catch_up()
    lease(log, segment=2)
    scheduler.catch_up()
    assert launcher.specs[PodName(JOB_ID, 2)].resume_from == "checkpoints/1/10"


def test_a_lease_that_lapsed_is_relaunched(
    log: EventLog, story: Story, scheduler: OrderedConsumer
) -> None:
    story.open_pool()
    approve(log)
    scheduler.catch_up()
    end(log, reason=SegmentEnd.LEASE_ENDED)
    scheduler.catch_up()
    assert (job(log).segment, job(log).segment_running) == (2, True)


def test_a_finished_job_needs_no_more_gpus(
    log: EventLog, story: Story, scheduler: OrderedConsumer
) -> None:
    story.open_pool()
    approve(log)
    scheduler.catch_up()
    story.complete(1)
    end(log, reason=SegmentEnd.COMPLETED)
    scheduler.catch_up()
    assert (story.pool.queue, story.pool.held) == ({}, {})


def test_an_extended_lease_is_told_to_the_segment(
    log: EventLog, story: Story, scheduler: OrderedConsumer, control: NotedControl
) -> None:
    story.open_pool()
    approve(log)
    scheduler.catch_up()
    lease(log)
    lease(log, seconds=60)
    scheduler.catch_up()
    assert control.paid == [(JOB_ID, 1, 360)]


def test_a_job_whose_account_cannot_pay_for_a_second_holds_no_gpu(
    log: EventLog, story: Story, scheduler: OrderedConsumer
) -> None:
    poor = Story(log, account_id=uuid4(), job_id=uuid4())
    poor.open_account(999)
    story.open_pool()
    approve(log, poor.job_id, poor.account_id)
    approve(log)
    scheduler.catch_up()
    assert not job(log, poor.job_id).segment_running
    assert job(log).segment_running, "it is not in the way of those who can pay"
