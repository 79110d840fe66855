"""Event handlers of pause, resume and cancel."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from domain.billing.meter import Meter
from domain.core.identity import meter_id
from domain.jobs import events
from domain.jobs.job import Job, JobStatus, SegmentEnd
from services.scheduler.launchers.launcher import PodName
from tests.builders.examples import JOB_ID
from tests.builders.history import RETENTION, History
from tests.builders.reports import CHECKPOINT, training
from tests.services.scheduler.conftest import Scheduler

Stop = Callable[[Job], None]
STOPPED = (JobStatus.PAUSED, JobStatus.CANCELLED)


@pytest.fixture(params=[Job.pause, lambda job: job.cancel(RETENTION)], ids=["pause", "cancel"])
def stop(request: pytest.FixtureRequest) -> Stop:
    return request.param


def ask(history: History, stop: Stop) -> None:
    with history.changing_job() as job:
        stop(job)


def test_a_stop_request_ends_with_the_final_report(
    launched: History, scheduler: Scheduler, stop: Stop
) -> None:
    ask(launched, stop)
    scheduler.catch_up()
    scheduler.control.stop.assert_called_once_with(JOB_ID, 1)
    assert launched.job.running is not None, "until it reports that it has saved"
    scheduler.segments.record(training(9, checkpoint=CHECKPOINT, outcome=SegmentEnd.STOPPED))
    scheduler.catch_up()
    assert launched.job.status in STOPPED
    assert (launched.pool.held, launched.pool.queue) == ({}, {})
    (ended,) = launched.events(events.SegmentEnded)
    assert (ended.elapsed_seconds, ended.kept_seconds) == (9, 9)


@pytest.mark.parametrize("leased", [False, True])
def test_a_segment_stopped_before_its_launch_ends_at_no_cost(
    allocated: History, scheduler: Scheduler, stop: Stop, leased: bool
) -> None:
    if leased:
        allocated.grant_lease(1)
    ask(allocated, stop)
    scheduler.catch_up()
    assert allocated.job.status in STOPPED
    assert (scheduler.launcher.started, allocated.pool.held) == ([], {})
    scheduler.control.stop.assert_not_called()


def test_a_stop_during_the_launch_stops_the_pod(
    allocated: History, scheduler: Scheduler, stop: Stop
) -> None:
    """The pod was launched, but its save lost against the owner's command."""
    allocated.grant_lease(1)
    granted = allocated.log.events.get(meter_id(JOB_ID, 1))
    (event,) = [each for each in granted if isinstance(each, Meter.LeaseGranted)]
    assert scheduler.handle(event) != []
    ask(allocated, stop)
    scheduler.catch_up()
    assert scheduler.launcher.started == [PodName(JOB_ID, 1)]
    assert allocated.job.pod is not None, "its time is billed"
    scheduler.control.stop.assert_called_once_with(JOB_ID, 1)


def test_a_stopped_job_leaves_the_queue(
    allocated: History, scheduler: Scheduler, stop: Stop
) -> None:
    waiting, behind = allocated.another_job(), allocated.another_job()
    for each in (waiting, behind):
        each.approve_job(queued=False)
    scheduler.catch_up()
    ask(waiting, stop)
    scheduler.catch_up()
    assert [claim.job_id for claim in allocated.pool.queue.values()] == [behind.job_id]


def test_a_resumed_job_continues_at_the_new_rate(launched: History, scheduler: Scheduler) -> None:
    launched.save_checkpoint(1, 10, 40)
    launched.pause()
    launched.end_segment(1, SegmentEnd.STOPPED, 60)
    scheduler.catch_up()
    assert launched.job.running is None
    launched.resume(rate_micros_per_hour=7_200_000)
    scheduler.catch_up()
    allocated = launched.last(events.SegmentAllocated)
    assert (allocated.segment, allocated.rate_micros_per_hour) == (2, 7_200_000)
    launched.grant_lease(2)
    scheduler.catch_up()
    (saved,) = scheduler.launcher.specs[PodName(JOB_ID, 2)].resume_from
    assert (saved.ref, saved.step) == ("checkpoints/1/10", 10)


def test_a_late_pause_handler_keeps_a_resumed_jobs_place(
    allocated: History, scheduler: Scheduler
) -> None:
    """As when a parked event is replayed."""
    waiting = allocated.another_job()
    waiting.approve_job()
    waiting.pause()
    waiting.resume()
    scheduler.catch_up()
    assert not any(each.pending_events for each in scheduler.handle(waiting.last(events.JobPaused)))
    assert [claim.segment for claim in allocated.pool.queue.values()] == [1]
    scheduler.offer(gpus=2)
    assert waiting.job.running is not None
