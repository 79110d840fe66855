"""The scheduler's event handlers: queue, allocation and launches."""

from __future__ import annotations

import base64
import json
import time
from uuid import uuid4

import pytest

from domain.billing.meter import Meter
from domain.core.event_log import EventLog
from domain.core.identity import meter_id
from domain.datasets.dataset import Dataset
from domain.jobs import events
from domain.jobs.failures import FailureClass
from domain.jobs.job import SegmentEnd
from domain.jobs.lifecycle import PauseReason
from infrastructure.consumer import OrderedConsumer
from services.scheduler.capacity import offer_capacity
from services.scheduler.handlers import Scheduling
from services.scheduler.launchers.launcher import PodName
from tests.builders.commands import FixedClock, command
from tests.builders.examples import ACCOUNT_ID, DATASET_ID, JOB_ID, PLAN
from tests.builders.history import History
from tests.services.scheduler.conftest import NotedControl
from tests.services.scheduler.fake_launcher import FakeLauncher
from tests.services.scheduler.others import approve, end, job, lease, pause_reason

pytestmark = pytest.mark.usefixtures("no_parking")


def test_a_job_from_its_approval_to_its_pod(
    log: EventLog, history: History, scheduler: OrderedConsumer, launcher: FakeLauncher
) -> None:
    history.open_pool()
    approve(log)
    scheduler.catch_up()
    assert job(log).running
    assert launcher.started == [], "without a lease there is no launch"
    lease(log)
    scheduler.catch_up()
    name = PodName(JOB_ID, 1)
    assert launcher.started == [name]
    assert job(log).pod == str(name)
    spec = launcher.specs[name]
    assert (spec.paid_seconds, spec.resume_from) == (300, ())
    assert (spec.dataset_ref, spec.base_ref) == (PLAN.dataset_ref, PLAN.base_ref)


def test_gpus_and_segment_are_allocated_in_one_save(
    log: EventLog, history: History, scheduler: OrderedConsumer
) -> None:
    history.open_pool()
    approve(log)
    scheduler.catch_up()
    (allocated,) = [e for e in log.events.get(history.pool.id) if e.originator_version == 4]
    (begun,) = [e for e in log.events.get(JOB_ID) if e.originator_version == 2]
    assert (type(allocated).__name__, type(begun).__name__) == ("GpusAllocated", "SegmentAllocated")
    assert allocated.command_id == begun.command_id  # type: ignore[attr-defined]


def test_two_jobs_on_one_slot_run_in_the_order_of_their_approval(
    log: EventLog, history: History, scheduler: OrderedConsumer
) -> None:
    second = uuid4()
    history.open_pool(1)
    approve(log)
    approve(log, second)
    scheduler.catch_up()
    assert job(log).running
    assert not job(log, second).running
    end(log, reason=SegmentEnd.COMPLETED)
    scheduler.catch_up()
    assert job(log, second).running


def test_a_queued_job_starts_when_capacity_is_added(
    log: EventLog, history: History, scheduler: OrderedConsumer, launcher: FakeLauncher
) -> None:
    second = uuid4()
    history.open_pool()
    approve(log)
    approve(log, second)
    scheduler.catch_up()
    assert not job(log, second).running
    launcher.gpus = 2
    offer_capacity(log, FixedClock(), launcher)
    scheduler.catch_up()
    assert job(log, second).running


def test_jobs_too_large_for_a_pool_are_paused(
    log: EventLog, history: History, scheduler: OrderedConsumer, launcher: FakeLauncher
) -> None:
    large = [History(log, job_id=uuid4()) for _ in range(2)]
    small = uuid4()
    history.open_pool(2)
    approve(log)
    for each in large:
        approve(log, each.job_id, count=2)
    approve(log, small)
    scheduler.catch_up()
    assert not job(log, small).running, "a small job must not overtake a larger one"
    launcher.gpus = 1
    offer_capacity(log, FixedClock(), launcher)
    scheduler.catch_up()
    assert [pause_reason(each) for each in large] == [PauseReason.CAPACITY] * 2
    assert job(log).running, "what runs keeps its GPUs"
    assert list(history.pool.queue) == [(small, 1)]
    end(log, reason=SegmentEnd.COMPLETED)
    scheduler.catch_up()
    assert job(log, small).running


def test_a_job_with_too_many_gpus_is_paused(
    log: EventLog, history: History, scheduler: OrderedConsumer
) -> None:
    history.open_pool(1)
    approve(log, count=2)
    scheduler.catch_up()
    assert pause_reason(history) is PauseReason.CAPACITY
    assert (history.pool.queue, history.pool.held) == ({}, {})


def test_repeated_capacity_adds_no_event(log: EventLog, launcher: FakeLauncher) -> None:
    offer_capacity(log, FixedClock(), launcher)
    version = History(log).pool.version
    offer_capacity(log, FixedClock(), launcher)
    assert (History(log).pool.version, History(log).pool.capacity) == (version, 1)


def test_an_unrecorded_launch_is_adopted(
    log: EventLog,
    history: History,
    scheduler: OrderedConsumer,
    launcher: FakeLauncher,
    scheduling: Scheduling,
) -> None:
    """The scheduler crashed between its launch and its save."""
    history.open_pool()
    approve(log)
    scheduler.catch_up()
    lease(log)
    (granted,) = [
        event
        for event in log.events.get(meter_id(JOB_ID, 1))
        if isinstance(event, Meter.LeaseGranted)
    ]
    with command("never saved"):
        assert scheduling.handle(granted) != []
    scheduler.catch_up()
    assert launcher.started == [PodName(JOB_ID, 1)]
    assert job(log).pod is not None


def test_a_lease_of_an_ended_segment_launches_nothing(
    log: EventLog, history: History, scheduler: OrderedConsumer, launcher: FakeLauncher
) -> None:
    history.open_pool()
    approve(log)
    scheduler.catch_up()
    end(log, reason=SegmentEnd.CRASHED)
    lease(log)
    scheduler.catch_up()
    assert launcher.started == []


def test_a_job_without_its_dataset_fails_at_no_cost(
    log: EventLog, history: History, scheduler: OrderedConsumer, launcher: FakeLauncher
) -> None:
    history.open_pool()
    with command("upload"):
        dataset = Dataset.uploaded(DATASET_ID, ACCOUNT_ID, "uploads/a/x", "d" * 64, 9)
        dataset.delete([])
        log.commit(dataset)
    approve(log)
    scheduler.catch_up()
    lease(log)
    scheduler.catch_up()
    (failed,) = [event for event in log.events.get(JOB_ID) if isinstance(event, events.JobFailed)]
    assert (failed.failure, failed.error_class) == (FailureClass.BAD_DATA, "DatasetDeleted")
    assert launcher.started == []
    assert history.pool.held == {}


def test_a_crashed_job_resumes_from_its_last_checkpoint(
    log: EventLog, history: History, scheduler: OrderedConsumer, launcher: FakeLauncher
) -> None:
    history.open_pool()
    approve(log)
    scheduler.catch_up()
    lease(log)
    scheduler.catch_up()
    history.save_checkpoint(1, 10, 40)
    history.save_checkpoint(1, 20, 60)
    end(log, reason=SegmentEnd.CRASHED)
    scheduler.catch_up()
    lease(log, segment=2)
    scheduler.catch_up()
    candidates = launcher.specs[PodName(JOB_ID, 2)].resume_from
    assert [each.ref for each in candidates] == ["checkpoints/1/20", "checkpoints/1/10"]


def test_a_job_resumed_on_other_gpus_is_queued_and_launched_with_them(
    log: EventLog, history: History, scheduler: OrderedConsumer, launcher: FakeLauncher
) -> None:
    """Even if it was paused and resumed in the queue before the handler runs."""
    launcher.gpus = 2
    history.open_pool(capacity=2)
    approve(log, uuid4(), count=2)
    approve(log, count=2)
    scheduler.catch_up()
    with command("pause and resume"):
        waiting = history.job
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
    assert sorted(claim.count for claim in history.pool.held.values()) == [1, 2]


def test_a_job_with_a_lapsed_lease_is_relaunched(
    log: EventLog, history: History, scheduler: OrderedConsumer
) -> None:
    history.open_pool()
    approve(log)
    scheduler.catch_up()
    end(log, reason=SegmentEnd.LEASE_ENDED)
    scheduler.catch_up()
    assert job(log).runs(2)


def test_a_finished_job_needs_no_more_gpus(
    log: EventLog, history: History, scheduler: OrderedConsumer
) -> None:
    history.open_pool()
    approve(log)
    scheduler.catch_up()
    history.complete(1)
    end(log, reason=SegmentEnd.COMPLETED)
    scheduler.catch_up()
    assert (history.pool.queue, history.pool.held) == ({}, {})


def test_an_extended_lease_is_sent_to_the_segment(
    log: EventLog, history: History, scheduler: OrderedConsumer, control: NotedControl
) -> None:
    history.open_pool()
    approve(log)
    scheduler.catch_up()
    lease(log)
    lease(log, seconds=60)
    scheduler.catch_up()
    assert control.paid == [(JOB_ID, 1, 360)]
    (jwt,) = control.jwts
    padded = jwt.split(".")[1] + "=="
    claims = json.loads(base64.urlsafe_b64decode(padded))
    assert claims["exp"] > time.time() + 300
    assert f"reports.{ACCOUNT_ID}.{JOB_ID}.1" in claims["nats"]["pub"]["allow"]


def test_an_ended_segment_gets_no_lease(
    log: EventLog, history: History, scheduler: OrderedConsumer, control: NotedControl
) -> None:
    history.open_pool()
    approve(log)
    scheduler.catch_up()
    lease(log)
    lease(log, seconds=60)
    end(log)
    scheduler.catch_up()
    assert control.paid == []
