"""Launches of leased segments, with retries while their GPUs are still in use."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from threading import Lock
from uuid import UUID

from psycopg_pool import ConnectionPool

from domain.billing.meter import Meter
from domain.capacity.gpu_pool import GpuPool
from domain.core.aggregate import Aggregate, Cause, because, current_cause
from domain.core.event_log import EventLog
from domain.core.identity import gpu_pool_id, meter_id
from domain.datasets.dataset import Dataset, DatasetStatus
from domain.jobs.failures import FailureClass
from domain.jobs.job import Job, SegmentEnd
from domain.jobs.lifecycle import PauseReason
from domain.jobs.segments import SegmentEnding
from infrastructure.artifacts.s3_requests import S3Refused
from infrastructure.postgres.store import Connection
from infrastructure.process import tracing
from infrastructure.process.backoff import Backoff
from infrastructure.process.clock import Clock, SystemClock
from infrastructure.settings import Settings
from infrastructure.training.reports import SegmentSpec
from projections.open_meters import unbound_segments
from services.scheduler.job_traces import in_trace_of
from services.scheduler.launchers.launcher import (
    GpusBusy,
    Launcher,
    LauncherUnavailable,
    LaunchFailed,
    PodName,
    PodPending,
)
from services.scheduler.segment_spec import segment_spec

SPEC_SECONDS = 60.0
"""Seconds for which the launch of a pending pod is repeated with the same credentials."""

FIRST_PAUSE, MAX_PAUSE = timedelta(seconds=0.5), timedelta(seconds=4)


class PodStarter:
    """A starter that launches a segment's pod, or ends a segment that has no pod.

    Event handlers call `start` and save its result. LaunchRetries calls `start_and_save` on another
    thread.
    """

    def __init__(self, log: EventLog, launcher: Launcher, settings: Settings) -> None:
        self._log = log
        self.launcher = launcher
        self._settings = settings
        self._launching = Lock()
        self._specs: dict[PodName, tuple[float, SegmentSpec]] = {}  # with their times

    def start(
        self, job_id: UUID, segment: int, paid_seconds: int, *, retried: bool = True
    ) -> Sequence[Aggregate]:
        """Launch a leased segment, or end it if it cannot run. Return the aggregates to save.

        A failure of the launcher is not a failure of the job. Raise LaunchFailed if the launch will
        be `retried`; otherwise pause the job. Raise GpusBusy, PodPending and LauncherUnavailable in
        any case.
        """
        job = self._log.load(Job, job_id)
        if not job.runs(segment) or job.pod is not None:
            return []
        if job.stop_requested and not self.launched(job):
            return self.end_unlaunched(job, SegmentEnd.STOPPED)
        if self._dataset_deleted(job):
            return self.end_unlaunched(
                job, SegmentEnd.CRASHED, failure=FailureClass.BAD_DATA, error_class="DatasetDeleted"
            )
        try:
            with tracing.timed("launch", pod=str(PodName(job_id, segment))):
                pod = self.launcher.launch(self._spec(job, paid_seconds))
        except LaunchFailed:
            if retried:
                raise
            return self.end_unlaunched(
                job, SegmentEnd.STOPPED, error_class="LaunchFailed", shortfall=PauseReason.CAPACITY
            )
        cause = current_cause()  # of a time before the launch
        with because(replace(cause, now=max(cause.now, pod.bound_at))):
            job.start_pod(segment, str(pod.name), pod.bound_at, self.launcher.host)
        return [job]

    def _spec(self, job: Job, paid_seconds: int) -> SegmentSpec:
        """Return the spec of a segment. A pending one keeps its credentials for a minute.

        New ones take a request to STS. Raise LauncherUnavailable if STS issues no keys.
        """
        name, now = PodName(job.id, job.segment), time.monotonic()
        self._specs = {
            key: (made_at, spec)
            for key, (made_at, spec) in self._specs.items()
            if now - made_at < SPEC_SECONDS
        }
        if name in self._specs and self._specs[name][1].paid_seconds == paid_seconds:
            return self._specs[name][1]
        try:
            spec = segment_spec(job, paid_seconds, self._settings)
        except S3Refused as refused:
            raise LauncherUnavailable(f"the artifact store issues no keys: {refused}") from refused
        self._specs[name] = now, spec
        return spec

    def start_and_save(self, name: PodName, cause: Cause, *, retried: bool) -> None:
        """Start the pod of a segment with an open, paid meter, and save the result."""
        meter = self._log.find(Meter, meter_id(name.job_id, name.segment))
        if meter is None or meter.closed or meter.paid_seconds == 0:
            return
        job, paid_seconds = self._log.load(Job, name.job_id), meter.paid_seconds
        traced = in_trace_of(self._log, job, "retry launch")
        with because(cause), self._launching, traced as step:
            started = self.start(name.job_id, name.segment, paid_seconds, retried=retried)
            step.kept = bool(started)
            self._log.commit(*started)

    def settled_job(self, job_id: UUID) -> Job:
        """Load a job between two calls of `start_and_save`, so that no launch is unsaved."""
        with self._launching:
            return self._log.load(Job, job_id)

    def launched(self, job: Job) -> bool:
        """Return True if the running segment has a pod, or may have one that is not known."""
        if job.pod is not None:
            return True
        try:
            return self.launcher.poll(PodName(job.id, job.segment)) is not None
        except LauncherUnavailable:
            return True

    def end_unlaunched(
        self,
        job: Job,
        reason: SegmentEnd,
        *,
        failure: FailureClass | None = None,
        error_class: str | None = None,
        shortfall: PauseReason | None = None,
    ) -> Sequence[Aggregate]:
        """End a segment that has no pod, free of charge, and release its GPUs."""
        segment = job.segment
        pool = self._log.load(GpuPool, gpu_pool_id(job.plan.region, job.plan.gpu_type))
        ending = SegmentEnding(
            reason=reason, elapsed_seconds=0, failure=failure, error_class=error_class
        )
        job.end_segment(segment, ending, shortfall=shortfall)
        pool.release(job.id, segment)
        return [job, pool]

    def _dataset_deleted(self, job: Job) -> bool:
        """Return True if a dataset was deleted during the approval, which has no lock on it."""
        plan = job.plan
        used = [plan.dataset_id, *([plan.validation.dataset_id] if plan.validation else [])]
        found = (self._log.find(Dataset, dataset_id) for dataset_id in used)
        return any(each is not None and each.status is DatasetStatus.DELETED for each in found)


class LaunchRetries:
    """Retries of leased segments that have no pod, with exponential back-off.

    The scheduler releases the GPUs of a trainer when it reports its end, shortly before its process
    exits. A new segment may therefore find its GPUs in use. Billing starts only when the launcher
    binds the GPUs. The read model lists these segments, so that a restarted scheduler continues.
    If the launcher itself fails for too long, the job pauses; a restart begins this time again.
    Delays use the clock of the machine, not that of the platform, because they wait for processes.
    """

    def __init__(
        self,
        pods: PodStarter,
        clock: Clock,
        pool: ConnectionPool[Connection],
        log: EventLog,
        limit_seconds: float,
        machine: Clock = SystemClock(),
    ) -> None:
        self._pods = pods
        self._clock = clock
        self._pool = pool
        self._log = log
        self._machine = machine
        self._limit = timedelta(seconds=limit_seconds)
        self._backoff = Backoff[PodName](FIRST_PAUSE, MAX_PAUSE)
        self._failed_at: dict[PodName, datetime] = {}  # first failure of the launcher
        self._logger = logging.getLogger("launching")

    def launch_due(self) -> None:
        """Launch each segment whose delay is over. If one fails, continue with the others.

        A segment seen for the first time is delayed once, because the handler of its lease may be
        about to launch it.
        """
        with self._pool.connection() as connection:
            rows = unbound_segments(connection)
        unbound = [PodName(row["job_id"], row["segment"]) for row in rows]
        now = self._machine.now()
        due, waiting = self._backoff.due(now), self._backoff.waiting(now)
        for name in (waiting | set(due)).difference(unbound):
            self._backoff.reset(name)
            self._failed_at.pop(name, None)
        for name in unbound:
            if name in due:
                self._try(name)
            elif name not in waiting:
                self._backoff.postpone(name, now)

    def _try(self, name: PodName) -> None:
        now = self._machine.now()
        retried = now - self._failed_at.get(name, now) < self._limit
        cause = Cause("service:scheduler", f"launch:{name}", self._clock.now())
        try:
            self._log.retrying(lambda: self._pods.start_and_save(name, cause, retried=retried))
        except (GpusBusy, LauncherUnavailable, LaunchFailed) as error:
            if isinstance(error, LaunchFailed):
                self._failed_at.setdefault(name, now)
            else:
                self._failed_at.pop(name, None)
            pause = self._backoff.postpone(name, self._machine.now())
            # A pod may be pending for hours. Its launcher logs the reason.
            level = logging.DEBUG if isinstance(error, PodPending) else logging.INFO
            self._logger.log(level, "%s cannot start yet: %s; retrying in %s", name, error, pause)
        except Exception:
            self._backoff.postpone(name, self._machine.now())
            self._logger.exception("cannot launch %s; retrying", name)
