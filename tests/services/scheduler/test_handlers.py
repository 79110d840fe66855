"""The scheduler's reactions: GPUs for jobs first come first served, launches for leases."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from psycopg_pool import ConnectionPool

from domain.event_log import EventLog
from domain.identity import meter_id
from domain.job import RELAUNCH_LIMIT, Job, JobStatus, SegmentEnd
from domain.lifecycle import PauseReason
from domain.meter import Meter
from infrastructure.consumer import OrderedConsumer
from infrastructure.reaction import parked_reactions
from infrastructure.store import Connection
from services.scheduler.capacity import offer_capacity
from services.scheduler.handlers import Scheduling
from services.scheduler.launchers.launcher import PodName
from tests.causes import FixedClock, command
from tests.domain.examples import ACCOUNT_ID, JOB_ID, PLAN
from tests.services.scheduler.conftest import NotedControl
from tests.services.scheduler.fake_launcher import FakeLauncher
from tests.stories import Story


def approve(
    log: EventLog, job_id: UUID = JOB_ID, account_id: UUID = ACCOUNT_ID, count: int = 1
) -> None:
    """What the gateway does."""
    with command(f"approve {job_id}"):
        plan = PLAN.model_copy(update={"gpu_count": count})
        log.commit(Job.approve(job_id, account_id, plan))


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
    assert (spec.paid_seconds, spec.resume_from) == (300, ())
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
    second = uuid4()
    story.open_pool()
    approve(log)
    approve(log, second)
    scheduler.catch_up()
    assert not job(log, second).segment_running
    launcher.gpus = 2
    offer_capacity(log, FixedClock(), launcher)
    scheduler.catch_up()
    assert job(log, second).segment_running


def test_jobs_that_a_shrunken_pool_can_never_serve_are_paused_and_make_way(
    log: EventLog, story: Story, scheduler: OrderedConsumer, launcher: FakeLauncher
) -> None:
    large = [Story(log, job_id=uuid4()) for _ in range(2)]
    small = uuid4()
    story.open_pool(2)
    approve(log)
    for each in large:
        approve(log, each.job_id, count=2)
    approve(log, small)
    scheduler.catch_up()
    assert not job(log, small).segment_running, "nobody is overtaken while there is hope"
    launcher.gpus = 1
    offer_capacity(log, FixedClock(), launcher)
    scheduler.catch_up()
    assert [pause_reason(each) for each in large] == [PauseReason.CAPACITY] * 2
    assert job(log).segment_running, "what runs keeps its GPUs"
    assert list(story.pool.queue) == [(small, 1)]
    end(log, reason=SegmentEnd.COMPLETED)
    scheduler.catch_up()
    assert job(log, small).segment_running


def test_a_job_for_more_gpus_than_there_are_is_paused_when_it_asks(
    log: EventLog, story: Story, scheduler: OrderedConsumer
) -> None:
    story.open_pool(1)
    approve(log, count=2)
    scheduler.catch_up()
    assert pause_reason(story) is PauseReason.CAPACITY
    assert (story.pool.queue, story.pool.held) == ({}, {})


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
    scheduling: Scheduling,
) -> None:
    """The scheduler crashed between its launch and its save."""
    story.open_pool()
    approve(log)
    scheduler.catch_up()
    lease(log)
    (granted,) = [
        event
        for event in log.events.get(meter_id(JOB_ID, 1))
        if isinstance(event, Meter.LeaseGranted)
    ]
    with command("never saved"):
        assert scheduling.react(granted) != []
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
    story.save_checkpoint(1, 20, 60)
    end(log, reason=SegmentEnd.CRASHED)
    scheduler.catch_up()
    lease(log, segment=2)
    scheduler.catch_up()
    candidates = launcher.specs[PodName(JOB_ID, 2)].resume_from
    assert [each.ref for each in candidates] == ["checkpoints/1/20", "checkpoints/1/10"]


def test_a_job_resumed_on_other_gpus_is_queued_and_launched_with_them(
    log: EventLog, story: Story, scheduler: OrderedConsumer, launcher: FakeLauncher
) -> None:
    """Also if it was paused and resumed while it stood in the queue, before anyone reacted."""
    launcher.gpus = 2
    story.open_pool(capacity=2)
    approve(log, uuid4(), count=2)
    approve(log, count=2)
    scheduler.catch_up()
    with command("pause and resume"):
        waiting = story.job
        waiting.pause()
        waiting.resume(None, PLAN.rate_micros_per_hour, "test", 1)
        log.commit(waiting)
    scheduler.catch_up()
    launcher.gpus = 3
    offer_capacity(log, FixedClock(), launcher)
    scheduler.catch_up()
    lease(log)
    scheduler.catch_up()
    spec = launcher.specs[PodName(JOB_ID, 1)]
    assert (spec.gpu_count, spec.approved_gpu_count) == (1, 2)
    assert sorted(claim.count for claim in story.pool.held.values()) == [1, 2]


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


def test_a_segment_that_is_over_is_told_of_no_lease(
    log: EventLog, story: Story, scheduler: OrderedConsumer, control: NotedControl
) -> None:
    story.open_pool()
    approve(log)
    scheduler.catch_up()
    lease(log)
    lease(log, seconds=60)
    end(log)
    scheduler.catch_up()
    assert control.paid == []


def poor_job(log: EventLog) -> Story:
    """A job whose account pays for no minute of it."""
    poor = Story(log, account_id=uuid4(), job_id=uuid4())
    poor.open_account(59_999)
    approve(log, poor.job_id, poor.account_id)
    return poor


def pause_reason(story: Story) -> PauseReason:
    last = list(story.log.events.get(story.job_id))[-1]
    assert isinstance(last, Job.JobPaused)
    return last.reason


def test_a_job_whose_account_cannot_pay_for_a_minute_is_paused_and_holds_no_gpu(
    log: EventLog, story: Story, scheduler: OrderedConsumer
) -> None:
    story.open_pool()
    poor = poor_job(log)
    approve(log)
    scheduler.catch_up()
    assert pause_reason(poor) is PauseReason.BALANCE
    assert job(log).segment_running, "it is not in the way of those who can pay"


def test_a_job_that_cannot_pay_when_its_turn_comes_is_paused(
    log: EventLog, story: Story, scheduler: OrderedConsumer
) -> None:
    waiting, behind = Story(log, uuid4(), uuid4()), uuid4()
    waiting.open_account(10_000_000)
    story.open_pool(1)
    approve(log)
    approve(log, waiting.job_id, waiting.account_id)
    approve(log, behind)
    scheduler.catch_up()
    spend(waiting)
    end(log, reason=SegmentEnd.COMPLETED)
    scheduler.catch_up()
    assert pause_reason(waiting) is PauseReason.BALANCE
    assert job(log, behind).segment_running, "the next in the queue has its turn"


def test_a_refused_lease_ends_the_segment_at_no_cost_and_pauses(
    log: EventLog, story: Story, scheduler: OrderedConsumer, launcher: FakeLauncher
) -> None:
    story.open_pool()
    approve(log)
    scheduler.catch_up()
    with command("refuse"):
        meter = Meter.open(ACCOUNT_ID, JOB_ID, 1, PLAN.rate_micros_per_hour)
        meter.refuse_lease()
        log.commit(meter)
    scheduler.catch_up()
    assert pause_reason(story) is PauseReason.BALANCE
    assert (story.pool.held, story.pool.queue, launcher.started) == ({}, {}, [])
    (ended,) = [e for e in log.events.get(JOB_ID) if isinstance(e, Job.SegmentEnded)]
    assert (ended.reason, ended.elapsed_seconds) == (SegmentEnd.LEASE_ENDED, 0)


def test_money_that_an_unsettled_lease_holds_counts(
    log: EventLog, story: Story, scheduler: OrderedConsumer
) -> None:
    """Else every relaunch of a job with a small balance would be a pause."""
    story.open_pool()
    approve(log)
    scheduler.catch_up()
    story.grant_lease(1)
    spend(story)
    end(log, reason=SegmentEnd.CRASHED)
    scheduler.catch_up()
    assert (job(log).segment, job(log).segment_running) == (2, True)


def test_once_the_last_lease_is_settled_the_balance_decides(
    log: EventLog, story: Story, scheduler: OrderedConsumer
) -> None:
    story.open_pool()
    approve(log)
    scheduler.catch_up()
    story.grant_lease(1)
    story.end_segment(1, SegmentEnd.LEASE_ENDED, 300)
    spend(story)
    scheduler.catch_up()
    assert pause_reason(story) is PauseReason.BALANCE


def spend(story: Story) -> None:
    """Other leases hold all that the account has."""
    with command("spend"):
        account = story.account
        account.settle(captured_micros=0, reserved_micros=account.available_micros)
        story.log.commit(account)
