"""Traces of jobs across queues, reports and trainers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from domain.jobs import events
from domain.jobs.job import Job
from domain.jobs.lifecycle import SegmentEnd
from infrastructure.training.reports import Phase, Report
from services.scheduler.job_traces import TrainerSpans, in_trace_of
from services.scheduler.launchers.launcher import PodName
from tests.builders.commands import NOW, command
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.builders.history import History
from tests.builders.reports import CHECKPOINT, report, training
from tests.builders.traces import Collector, Span, path_to
from tests.services.scheduler.conftest import Scheduler

CLICK = Span("a" * 32, "a" * 16, "", "POST /api/jobs", "gateway", 0, 1, {})
OTHER_CLICK = Span("b" * 32, "b" * 16, "", "POST /api/jobs", "gateway", 0, 1, {})
SENT_AT = datetime(2026, 1, 2, tzinfo=UTC)
PHASES = {Phase.IMAGE_PULL: 1.0, Phase.MODEL_LOAD: 2.0, Phase.DATASET_PREP: 0.5}


def in_trace(click: Span) -> Callable[[str], AbstractContextManager[object]]:
    """Return commands in the trace of a click."""
    return lambda name: because(Cause("account:test", name, NOW, traceparent=click.traceparent))


def trace_of(history: History, kind: type[events.JobEvent]) -> str | None:
    """Return the trace of the last event of a kind."""
    parent = history.last(kind).traceparent
    return parent and parent.split("-")[1]


def milliseconds(span: Span) -> tuple[int, int]:
    """Return the start and the end of a span, relative to the report of the trainer."""
    return tuple(
        round(at / 1e6 - SENT_AT.timestamp() * 1e3) for at in (span.started_ns, span.ended_ns)
    )


def stepped(n: int, **fields: Any) -> Report:
    """A report after the first step, 0.5 s after it."""
    times = {"phase_seconds": PHASES | {Phase.TRAINING: 1.5}, "elapsed_seconds": 5.0}
    said = training(n, step=1, first_step_seconds=4.5, **(times | fields))
    return said.model_copy(update={"sent_at": SENT_AT})


@pytest.fixture
def approved(log: EventLog, scheduler: Scheduler, collector: Collector) -> History:
    """A job that was approved by a click, and has GPUs."""
    history = History(log, command=in_trace(CLICK))
    history.open_account(10_000_000)
    history.open_pool()
    history.approve_job(queued=False)
    scheduler.catch_up()
    return history


@pytest.fixture
def launched(approved: History, scheduler: Scheduler) -> History:
    """A job with a pod."""
    approved.grant_lease(1)
    scheduler.catch_up()
    return approved


def queued_behind(
    approved: History, scheduler: Scheduler, run: Callable[[str], AbstractContextManager[object]]
) -> History:
    """Return another job, which gets its GPUs when the first one ends."""
    other = History(approved.log, ACCOUNT_ID, uuid4(), approved.plan, run)
    other.approve_job(queued=False)
    scheduler.catch_up()
    approved.end_segment(1, SegmentEnd.STOPPED)
    scheduler.catch_up()
    return other


def test_the_allocation_continues_the_trace_of_the_approval(
    approved: History, collector: Collector
) -> None:
    assert trace_of(approved, events.SegmentAllocated) == CLICK.trace_id
    assert collector.names == ["process JobApproved"]


def test_a_queued_job_keeps_its_trace_when_another_job_frees_its_gpus(
    approved: History, scheduler: Scheduler, collector: Collector
) -> None:
    other = queued_behind(approved, scheduler, in_trace(OTHER_CLICK))
    assert trace_of(other, events.SegmentAllocated) == OTHER_CLICK.trace_id
    assert collector.named("allocate").parent_id == OTHER_CLICK.span_id


def test_an_untraced_job_does_not_join_the_trace_of_the_job_that_frees_its_gpus(
    approved: History, scheduler: Scheduler
) -> None:
    other = queued_behind(approved, scheduler, command)
    assert trace_of(other, events.SegmentAllocated) is None


def test_a_changed_maximum_cost_does_not_take_over_the_trace(
    launched: History, scheduler: Scheduler
) -> None:
    change(launched, lambda job: job.change_max_cost(5_000_000))
    scheduler.segments.record(training(1))
    assert trace_of(launched, events.TrainingStarted) == CLICK.trace_id


def test_the_trace_ends_when_training_starts(
    launched: History, scheduler: Scheduler, collector: Collector
) -> None:
    scheduler.segments.record(report(1, Phase.MODEL_LOAD))
    scheduler.segments.record(training(2))
    scheduler.segments.record(training(3, step=10, checkpoint=CHECKPOINT))
    assert trace_of(launched, events.TrainingStarted) == CLICK.trace_id
    assert trace_of(launched, events.CheckpointSaved) is None
    assert collector.names.count("process Report") == 1


def test_a_pause_of_a_training_job_is_a_trace_until_the_job_is_paused(
    launched: History, scheduler: Scheduler
) -> None:
    scheduler.segments.record(training(1))
    change(launched, Job.pause)
    scheduler.segments.record(training(2, outcome=SegmentEnd.STOPPED))
    assert trace_of(launched, events.JobPaused) == OTHER_CLICK.trace_id


def change(history: History, act: Callable[[Job], None]) -> None:
    """Let the owner change the job by another click."""
    with in_trace(OTHER_CLICK)("change"):
        job = history.job
        act(job)
        history.log.commit(job)


def test_the_first_step_is_traced_from_the_start_of_the_trainer(
    launched: History, scheduler: Scheduler, collector: Collector
) -> None:
    scheduler.segments.record(training(1))
    scheduler.segments.record(stepped(2))
    first_step = collector.named("first step")
    assert path_to([CLICK, *collector.spans], first_step) == [
        "gateway: POST /api/jobs",
        "test: process LeaseGranted",
        "trainer: start trainer",
        "trainer: first step",
    ]
    assert milliseconds(collector.named("start trainer")) == (-5000, -500)
    assert milliseconds(collector.named("model_load")) == (-4000, -2000)
    assert milliseconds(first_step) == (-1500, -500)


@pytest.mark.usefixtures("launched")
def test_one_report_can_start_training_and_have_the_first_step(
    scheduler: Scheduler, collector: Collector
) -> None:
    for n in (1, 2):
        scheduler.segments.record(stepped(n))
    assert collector.names.count("first step") == 1


def test_a_late_report_of_an_ended_segment_has_no_spans(
    launched: History, scheduler: Scheduler, collector: Collector
) -> None:
    scheduler.segments.record(training(1))
    launched.end_segment(1, SegmentEnd.CRASHED)
    scheduler.segments.record(stepped(2))
    assert "start trainer" not in collector.names


@pytest.mark.parametrize("sent_at", [SENT_AT, datetime.min, datetime.max])
def test_a_trainer_cannot_send_times_that_no_collector_accepts(
    collector: Collector, sent_at: datetime
) -> None:
    spans = TrainerSpans(clock_speed=1.0)
    spans.expect(PodName(JOB_ID, 1), CLICK.traceparent)
    phases = {Phase.IMAGE_PULL: 0.0, Phase.MODEL_LOAD: 2.0**31 - 1}
    said = stepped(1, phase_seconds=phases)
    spans.take(said.model_copy(update={"sent_at": sent_at.replace(tzinfo=UTC)}))
    assert collector.names == ["start trainer", "image_pull", "model_load", "first step"]


def test_without_tracing_no_event_is_looked_up(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    history.run_until("approved")
    job = history.job
    monkeypatch.setattr(history.log, "events", None)
    with command("any"), in_trace_of(history.log, job, "any") as step:
        assert step.parent is None
