"""The pod watch, which records evidence of running pods, ends segments and removes ended pods."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable

from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from domain.jobs.job import Job
from infrastructure.bus.event_handlers import UNREACHABLE
from infrastructure.postgres.store import Connection
from infrastructure.settings import Settings
from projections.open_meters import bound_segments
from services.scheduler.launchers.launcher import Launcher, LauncherUnavailable, Pod, PodName
from services.scheduler.pod_reports import PodReports
from services.scheduler.segments import Segments


class Silences:
    """Seconds since the last sign of life of each pod, or since it was first observed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shown: dict[PodName, tuple[Hashable, float]] = {}

    def seconds(self, name: PodName, shown: Hashable) -> float:
        """Return the seconds since the pod first showed this value."""
        now = self._clock()
        before = self._shown.get(name)
        if before is None or before[0] != shown:
            self._shown[name] = shown, now
            return 0.0
        return now - before[1]

    def forget(self, name: PodName) -> None:
        """Restart the count when the pod is observed again."""
        self._shown.pop(name, None)


class PodWatch:
    """A watch that polls every pod once per heartbeat interval. It adopts pods that already run."""

    def __init__(
        self,
        log: EventLog,
        pool: ConnectionPool[Connection],
        launcher: Launcher,
        segments: Segments,
        reports: PodReports,
        settings: Settings,
    ) -> None:
        self._log = log
        self._pool = pool
        self._launcher = launcher
        self._segments = segments
        self._reports = reports
        self._settings = settings
        self._overdue_since: dict[PodName, float] = {}
        self.silences = Silences()
        self._most_silence = max(
            settings.trainer_silence_timeout_seconds, 10 * settings.heartbeat_seconds
        )
        self._logger = logging.getLogger("pods")

    async def run(self) -> None:
        """Watch until cancelled. No segment ends while the launcher or database does not answer."""
        while True:
            try:
                await self._poll_all()
            except (LauncherUnavailable, *UNREACHABLE) as error:
                self._logger.warning("cannot see the pods, so none of them ends: %s", error)
            await asyncio.sleep(self._settings.heartbeat_seconds)

    async def _poll_all(self) -> None:
        """Poll the launcher's pods and the expected ones, unless one side does not answer."""
        expected = await asyncio.to_thread(self._expected)
        held = set(await asyncio.to_thread(self._launcher.pods))
        for name in sorted(expected | held):
            try:
                await self._poll(name, name in held)
            except LauncherUnavailable:
                raise
            except Exception:
                self._logger.exception("polling %s failed; retrying", name)

    def _expected(self) -> set[PodName]:
        with self._pool.connection() as connection:
            return {PodName(row["job_id"], row["segment"]) for row in bound_segments(connection)}

    async def _poll(self, name: PodName, held: bool) -> None:
        """Poll a pod. `held` is true if the launcher has it, even if it is pending."""
        pod = await asyncio.to_thread(self._launcher.poll, name)
        job = await asyncio.to_thread(self._log.find, Job, name.job_id)
        if job is None:
            return
        segment = job.running if job.runs(name.segment) else None
        if pod is not None and pod.alive:
            await (self._attend(pod, job) if segment else self._stop_overdue(name))
        elif segment is None:
            if pod is not None:
                await self._remove(name, job)
            elif held:  # still pending
                await asyncio.to_thread(self._launcher.remove, name)
        elif segment.host not in (None, self._launcher.host):
            await self._attend_elsewhere(name, job, segment.host)
        elif segment.pod is not None:  # otherwise the handler that launched it has not saved it yet
            await self._end(name, None if pod is None else pod.exit_code, job)

    async def _attend(self, pod: Pod, job: Job) -> None:
        """Publish evidence for a running pod, repeat a stop request, and kill a silent trainer."""
        silent_seconds = self.silences.seconds(pod.name, pod.beat)
        if pod.beat is not None and silent_seconds > self._most_silence:
            self._logger.error("killing %s: silent for %.0f s", pod.name, silent_seconds)
            await asyncio.to_thread(self._launcher.kill, pod.name)
            return  # the next poll ends its segment
        if not self._segments.heard_of(pod.name):
            await self._reports.publish_evidence(pod, job)
        if job.stop_requested:  # repeated in case a restart lost the first request
            await asyncio.to_thread(self._segments.request_stop, pod.name)

    async def _attend_elsewhere(self, name: PodName, job: Job, host: str | None) -> None:
        """End a segment of another host if the bus works but no report of the segment arrives.

        This host cannot see the process. It may still run, so the watch first asks it to stop.
        """
        try:
            report = await self._reports.last_report(job, name.segment)
        except Exception:
            self.silences.forget(name)  # without the bus, every pod appears silent
            raise
        shown = None if report is None else (report.n, report.ending)
        silent_seconds = self.silences.seconds(name, shown)
        if silent_seconds > self._most_silence:
            self._logger.error(
                "ending %s on host %s: silent for %.0f s", name, host, silent_seconds
            )
            await asyncio.to_thread(self._segments.request_stop, name)
            await self._end(name, None, job)

    async def _remove(self, name: PodName, job: Job) -> None:
        await asyncio.to_thread(self._segments.clean_up, job, name.segment)
        await asyncio.to_thread(self._launcher.remove, name)
        for memory in (self._segments, self._reports, self.silences):
            memory.forget(name)
        self._overdue_since.pop(name, None)

    async def _end(self, name: PodName, exit_code: int | None, job: Job) -> None:
        """End a segment. First record its last report, which may have a checkpoint or an ending."""
        report = await self._reports.last_report(job, name.segment)
        if report is not None:
            await asyncio.to_thread(self._segments.record, report)
            elapsed, grace = report.elapsed_seconds, report.grace_seconds
            phase_seconds = report.phase_seconds
        else:
            elapsed, grace = await self._reports.last_evidence(job, name.segment), 0.0
            phase_seconds = {}
        await asyncio.to_thread(
            self._segments.lose, name, int(elapsed), exit_code, phase_seconds, int(grace)
        )

    async def _stop_overdue(self, name: PodName) -> None:
        """Stop a trainer that still runs after its segment ended. Kill it if it does not stop."""
        since = self._overdue_since.setdefault(name, time.monotonic())
        overdue_seconds = time.monotonic() - since
        if overdue_seconds > self._settings.grace_seconds + self._most_silence:
            self._logger.error("killing %s: it does not stop", name)
            await asyncio.to_thread(self._launcher.kill, name)
        elif overdue_seconds > self._settings.grace_seconds:
            self._logger.warning("stopping %s: its segment is over", name)
            await asyncio.to_thread(self._launcher.stop, name)
