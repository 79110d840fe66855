"""Traces of jobs where no event causes the next one: queues, delays, reports and trainers."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace

from domain.core.aggregate import because, current_cause
from domain.core.event_log import EventLog
from domain.jobs import events
from domain.jobs.job import Job
from domain.training.phases import Phase
from infrastructure.process import tracing
from infrastructure.training.reports import Report
from services.scheduler.launchers.launcher import PodName

NANOSECONDS = 1_000_000_000
TRAINER = "trainer"
RECENT_EVENTS = 10
"""Number of a job's newest events in which its trace is looked up."""


@contextmanager
def in_trace_of(log: EventLog, job: Job, name: str) -> Generator[tracing.Step]:
    """Run the block in the trace of the job's newest event, not in that of another job."""
    cause, parent = current_cause(), _trace_of(log, job)
    if tracing.same_trace(parent, cause.traceparent):
        yield tracing.Step(parent)
        return
    with tracing.continued(parent, name, job_id=str(job.id)) as step:
        step.kept = True
        own = None if parent is None else tracing.traceparent()
        with because(replace(cause, traceparent=own)):
            yield step


def _trace_of(log: EventLog, job: Job) -> str | None:
    """Return the span that the job continues. A trace ends when training starts or stops."""
    trains = job.running is not None and job.running.trains
    if not tracing.is_on() or (trains and not job.stop_requested):
        return None
    for event in log.events.get(job.id, desc=True, limit=RECENT_EVENTS):
        # A change of the maximum cost starts nothing.
        if isinstance(event, events.JobEvent) and not isinstance(event, events.MaxCostChanged):
            return event.traceparent
    return None


class TrainerSpans:
    """Spans of trainers, from their start to their first optimizer step.

    Trainers cannot reach a collector, and need no credentials for it. The scheduler records their
    spans from a report. If the scheduler restarts between the start of training and the first step,
    these spans are missing.
    """

    def __init__(self, clock_speed: float) -> None:
        self._clock_speed = clock_speed
        self._parents: dict[PodName, str] = {}

    def expect(self, name: PodName, parent: str | None) -> None:
        """Expect the first step of a trainer that was launched by this span."""
        if parent is not None:
            self._parents[name] = parent

    def take(self, report: Report) -> None:
        """Record the spans of a trainer that reports its first step, once."""
        if report.first_step_seconds is None:
            return
        name = PodName(report.job_id, report.segment)
        if (parent := self._parents.pop(name, None)) is None:
            return
        launched = tracing.record(
            parent,
            "start trainer",
            self._period(report, 0.0, report.first_step_seconds),
            process=TRAINER,
            attributes={"pod": str(name)},
        )
        for title, begin, end in _parts(report, report.first_step_seconds):
            tracing.record(launched, title, self._period(report, begin, end), process=TRAINER)

    def forget(self, name: PodName) -> None:
        """Drop the state of a segment whose pod was removed."""
        self._parents.pop(name, None)

    def _period(self, report: Report, begin: float, end: float) -> tuple[int, int]:
        """Return an untrusted period of a segment in nanoseconds since 1970, until now at most."""
        sent_at = min(report.sent_at.timestamp(), time.time())

        def moment(seconds: float) -> int:
            age = report.elapsed_seconds - min(max(seconds, 0.0), report.elapsed_seconds)
            return max(0, round((sent_at - age / self._clock_speed) * NANOSECONDS))

        return moment(begin), moment(end)


def _parts(report: Report, first_step_seconds: float) -> Iterator[tuple[str, float, float]]:
    """Yield the phases before training and the first step, in segment seconds."""
    begin = 0.0
    for phase, seconds in report.phase_seconds.items():
        if phase is Phase.TRAINING:
            break
        yield phase.value, begin, begin + seconds
        begin += seconds
    yield "first step", begin, first_step_seconds
