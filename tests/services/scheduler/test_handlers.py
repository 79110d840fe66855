"""Event handlers: queue, allocation, launches and payment."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from uuid import uuid4

import pytest
from eventsourcing.persistence import Tracking

from domain.billing.meter import Meter
from domain.capacity.gpu_pool import Claim, GpuPool
from domain.catalog.base_model import BaseModel
from domain.core.aggregate import Aggregate
from domain.core.errors import VersionConflict
from domain.core.identity import meter_id
from domain.datasets.dataset import Dataset
from domain.jobs import events
from domain.jobs.failures import FailureClass
from domain.jobs.job import SegmentEnd
from domain.jobs.lifecycle import PauseReason
from infrastructure.bus import event_handlers
from services.scheduler import allocating
from services.scheduler.launchers.launcher import PodName
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID, DATASET_ID, ESTIMATE, JOB_ID, PLAN, revision
from tests.builders.history import History
from tests.services.scheduler.conftest import Scheduler

NAME = PodName(JOB_ID, 1)


def queue(history: History, **plan: object) -> History:
    """Approve another job."""
    other = history.another_job()
    other.approve_job(queued=False, **plan)
    return other


def test_a_job_from_its_approval_to_its_pod(allocated: History, scheduler: Scheduler) -> None:
    assert allocated.job.running
    assert scheduler.launcher.started == [], "without a lease there is no launch"
    allocated.grant_lease(1)
    scheduler.catch_up()
    assert scheduler.launcher.started == [NAME]
    assert allocated.job.pod == str(NAME)
    spec = scheduler.launcher.specs[NAME]
    assert (spec.paid_seconds, spec.resume_from) == (300, ())
    assert (spec.dataset_ref, spec.base_ref) == (PLAN.dataset_ref, PLAN.base_ref)


def test_after_a_failed_launch_the_next_events_do_not_wait_for_the_launcher(
    allocated: History, scheduler: Scheduler
) -> None:
    scheduler.launcher.refuses = True
    allocated.grant_lease(1)
    scheduler.catch_up()
    scheduler.launcher.refuses = False
    (granted,) = [
        each
        for each in allocated.log.events.get(meter_id(JOB_ID, 1))
        if isinstance(each, Meter.LeaseGranted)
    ]
    assert scheduler.handle(granted) == []
    assert scheduler.launcher.started == []


def test_gpus_and_segment_are_allocated_in_one_save(allocated: History) -> None:
    (gpus,) = [
        each
        for each in allocated.log.events.get(allocated.pool.id)
        if isinstance(each, GpuPool.GpusAllocated)
    ]
    assert gpus.command_id == allocated.last(events.SegmentAllocated).command_id


def test_jobs_on_one_gpu_run_in_the_order_of_their_approval(
    allocated: History, scheduler: Scheduler
) -> None:
    second = queue(allocated)
    scheduler.catch_up()
    assert not second.job.running
    allocated.end_segment(1, SegmentEnd.COMPLETED)
    scheduler.catch_up()
    assert second.job.running


def test_a_queued_job_starts_when_capacity_is_added(
    allocated: History, scheduler: Scheduler
) -> None:
    second = queue(allocated)
    scheduler.offer(gpus=2)
    assert second.job.running


def test_one_save_serves_many_claims(
    allocated: History, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allocating, "MOST_SERVED", 3)
    others = [queue(allocated) for _ in range(5)]
    scheduler.catch_up()
    scheduler.offer(gpus=6)
    assert all(each.job.running for each in others)
    saves = Counter(each.last(events.SegmentAllocated).command_id for each in others)
    assert sorted(saves.values()) == [2, 3]


@pytest.mark.full
def test_a_pool_whose_large_saves_always_conflict_is_served_with_smaller_ones(
    allocated: History, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other threads save a busy pool while the handler loads many jobs."""
    save = scheduler.log.commit

    def save_small(*aggregates: Aggregate, tracking: Tracking | None = None) -> None:
        if len(aggregates) > 2:
            raise VersionConflict("Another thread has saved the pool.")
        save(*aggregates, tracking=tracking)

    others = [queue(allocated) for _ in range(20)]
    scheduler.catch_up()
    monkeypatch.setattr(event_handlers, "CONFLICT_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(scheduler.log, "commit", save_small)
    scheduler.offer(gpus=21)
    assert all(each.job.running for each in others)


def queue_unknown(history: History, count: int = 1) -> None:
    """Queue claims of jobs that cannot be loaded."""
    with command("request"):
        pool = history.pool
        for _ in range(count):
            pool.request(Claim(ACCOUNT_ID, uuid4(), 1, 1))
        history.log.commit(pool)


def test_a_job_that_cannot_be_loaded_keeps_its_place_and_blocks_no_other(
    allocated: History, scheduler: Scheduler
) -> None:
    before = queue(allocated)
    scheduler.catch_up()
    queue_unknown(allocated)
    behind = queue(allocated)
    scheduler.offer(gpus=3)
    assert (before.job.runs(1), behind.job.runs(1)) == (True, True)
    assert (len(allocated.pool.queue), allocated.pool.free) == (1, 0)


def test_if_many_jobs_cannot_be_loaded_the_claims_wait_for_an_operator(
    allocated: History, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_handlers, "ATTEMPT_PAUSE_SECONDS", 0.0)
    before = queue(allocated)
    scheduler.catch_up()
    queue_unknown(allocated, allocating.MOST_SKIPPED + 1)
    with pytest.raises(AssertionError):  # an event of the pool is parked
        scheduler.offer(gpus=20)
    assert before.job.running
    assert len(allocated.pool.queue) == allocating.MOST_SKIPPED + 1


def test_a_save_serves_and_pauses_jobs_of_several_accounts(
    allocated: History, scheduler: Scheduler
) -> None:
    scheduler.offer(gpus=4)
    large, small = queue(allocated, gpu_count=4), allocated.another_job(uuid4())
    small.open_account(10_000_000)
    small.approve_job(queued=False)
    scheduler.catch_up()
    assert not small.job.running, "it waits behind the large one"
    scheduler.offer(gpus=3)
    assert large.last(events.JobPaused).reason is PauseReason.CAPACITY
    assert small.job.running
    assert large.last().command_id == small.last().command_id


def test_jobs_too_large_for_a_pool_are_paused(allocated: History, scheduler: Scheduler) -> None:
    scheduler.offer(gpus=2)
    large = [queue(allocated, gpu_count=2) for _ in range(2)]
    small = queue(allocated)
    scheduler.catch_up()
    assert not small.job.running, "a small job must not overtake a larger one"
    scheduler.offer(gpus=1)
    assert [each.last(events.JobPaused).reason for each in large] == [PauseReason.CAPACITY] * 2
    assert allocated.job.running, "a running job keeps its GPUs"
    assert list(allocated.pool.queue) == [(small.job_id, 1)]


def test_an_unrecorded_launch_is_adopted(allocated: History, scheduler: Scheduler) -> None:
    """The scheduler crashed between its launch and its save."""
    allocated.grant_lease(1)
    granted = allocated.log.events.get(meter_id(JOB_ID, 1))
    (event,) = [each for each in granted if isinstance(each, Meter.LeaseGranted)]
    assert scheduler.handle(event) != []
    scheduler.catch_up()
    assert scheduler.launcher.started == [NAME]
    assert allocated.job.pod is not None


def test_a_lease_of_an_ended_segment_launches_nothing(
    allocated: History, scheduler: Scheduler
) -> None:
    allocated.end_segment(1, SegmentEnd.CRASHED)
    allocated.grant_lease(1)
    scheduler.catch_up()
    assert scheduler.launcher.started == []


def test_a_job_without_its_dataset_fails_at_no_cost(
    allocated: History, scheduler: Scheduler
) -> None:
    with command("upload"):
        dataset = Dataset.uploaded(DATASET_ID, ACCOUNT_ID, "uploads/a/x", "d" * 64, 9)
        dataset.delete([])
        allocated.log.commit(dataset)
    allocated.grant_lease(1)
    scheduler.catch_up()
    failed = allocated.last(events.JobFailed)
    assert (failed.failure, failed.error_class) == (FailureClass.BAD_DATA, "DatasetDeleted")
    assert (scheduler.launcher.started, allocated.pool.held) == ([], {})


def test_a_crashed_job_resumes_from_its_last_checkpoint(
    launched: History, scheduler: Scheduler
) -> None:
    launched.save_checkpoint(1, 10, 40)
    launched.save_checkpoint(1, 20, 60)
    launched.end_segment(1, SegmentEnd.CRASHED)
    scheduler.catch_up()
    launched.grant_lease(2)
    scheduler.catch_up()
    candidates = scheduler.launcher.specs[PodName(JOB_ID, 2)].resume_from
    assert [each.ref for each in candidates] == ["checkpoints/1/20", "checkpoints/1/10"]


def test_a_job_resumed_on_other_gpus_is_launched_with_them(
    allocated: History, scheduler: Scheduler
) -> None:
    """The job is paused and resumed in the queue before any handler runs."""
    waiting = queue(allocated, gpu_count=2)
    scheduler.offer(gpus=2)
    with waiting.changing_job() as job:
        job.pause()
        job.resume(ESTIMATE, PLAN.rate_micros_per_hour, "test", 1)
    scheduler.catch_up()
    waiting.grant_lease(1)
    scheduler.catch_up()
    spec = scheduler.launcher.specs[PodName(waiting.job_id, 1)]
    assert (spec.gpu_count, spec.approved_gpu_count) == (1, 2)
    assert [claim.count for claim in allocated.pool.held.values()] == [1, 1]


def test_a_job_with_a_lapsed_lease_is_relaunched(allocated: History, scheduler: Scheduler) -> None:
    allocated.end_segment(1, SegmentEnd.LEASE_ENDED)
    scheduler.catch_up()
    assert allocated.job.runs(2)


def test_a_finished_job_needs_no_more_gpus(allocated: History, scheduler: Scheduler) -> None:
    allocated.complete(1)
    allocated.end_segment(1, SegmentEnd.COMPLETED)
    scheduler.catch_up()
    assert (allocated.pool.queue, allocated.pool.held) == ({}, {})


def test_an_extended_lease_is_sent_to_the_segment(launched: History, scheduler: Scheduler) -> None:
    launched.extend_lease(1, 60)
    scheduler.catch_up()
    (job_id, segment, paid_seconds, jwt) = scheduler.control.pay.call_args.args
    assert (job_id, segment, paid_seconds) == (JOB_ID, 1, 360)
    claims = json.loads(base64.urlsafe_b64decode(jwt.split(".")[1] + "=="))
    assert claims["exp"] > time.time() + 300
    assert f"reports.{ACCOUNT_ID}.{JOB_ID}.1" in claims["nats"]["pub"]["allow"]


def test_an_ended_segment_gets_no_paid_time(launched: History, scheduler: Scheduler) -> None:
    launched.extend_lease(1, 60)
    launched.end_segment(1, SegmentEnd.STOPPED)
    scheduler.catch_up()
    scheduler.control.pay.assert_not_called()


def test_a_job_without_money_for_a_minute_is_paused(
    allocated: History, scheduler: Scheduler
) -> None:
    poor, behind = allocated.another_job(uuid4()), allocated.another_job()
    poor.open_account(59_999)
    for each in (poor, behind):
        each.approve_job(queued=False)
    scheduler.offer(gpus=2)
    assert poor.last(events.JobPaused).reason is PauseReason.BALANCE
    assert behind.job.running


def test_a_job_that_cannot_pay_when_its_turn_comes_is_paused(
    allocated: History, scheduler: Scheduler
) -> None:
    waiting, behind = allocated.another_job(uuid4()), allocated.another_job()
    waiting.open_account(10_000_000)
    for each in (waiting, behind):
        each.approve_job(queued=False)
    scheduler.catch_up()
    waiting.reserve_balance()
    allocated.end_segment(1, SegmentEnd.COMPLETED)
    scheduler.catch_up()
    assert waiting.last(events.JobPaused).reason is PauseReason.BALANCE
    assert behind.job.running


def test_a_refused_lease_ends_the_segment_at_no_cost_and_pauses(
    allocated: History, scheduler: Scheduler
) -> None:
    allocated.refuse_lease(1)
    scheduler.catch_up()
    assert allocated.last(events.JobPaused).reason is PauseReason.BALANCE
    ended = allocated.last(events.SegmentEnded)
    assert (ended.reason, ended.elapsed_seconds) == (SegmentEnd.LEASE_ENDED, 0)
    assert (allocated.pool.held, allocated.pool.queue) == ({}, {})
    assert scheduler.launcher.started == []


@pytest.mark.parametrize("settled", [False, True])
def test_an_unsettled_lease_counts_as_money(
    allocated: History, scheduler: Scheduler, settled: bool
) -> None:
    """Otherwise a job with a small balance would pause at every relaunch."""
    allocated.grant_lease(1)
    allocated.end_segment(1, SegmentEnd.LEASE_ENDED, 300, settled=settled)
    allocated.reserve_balance()
    scheduler.catch_up()
    assert allocated.job.runs(2) is not settled


def test_a_deleted_base_loses_its_files_unless_reimported(
    history: History, scheduler: Scheduler
) -> None:
    ref = "models/tiny/1"
    content = revision(ref=ref)
    scheduler.artifacts.put(f"{ref}/config.json", b"{}")
    with command():
        base = BaseModel.imported("tiny", content)
        base.delete()
        base.revise(content)
        *_, deleted, _ = base.pending_events
        history.log.commit(base)
    scheduler.handle(deleted)
    assert scheduler.artifacts.exists(f"{ref}/config.json")
    with command():
        base.delete()
        history.log.commit(base)
    scheduler.handle(deleted)
    assert not scheduler.artifacts.exists(f"{ref}/config.json")
