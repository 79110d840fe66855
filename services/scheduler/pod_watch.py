"""Watches pods: evidence while they live, an end when they are gone, a broom when all is said."""

from __future__ import annotations

import asyncio
import logging
import time

from faststream.nats import NatsBroker
from nats.js.errors import NotFoundError
from psycopg_pool import ConnectionPool
from pydantic import ValidationError

from domain.core.event_log import EventLog
from domain.jobs.job import Job
from infrastructure.bus import REPORTS
from infrastructure.clock import Clock
from infrastructure.reports import PodSeen, Report, report_subject
from infrastructure.settings import Settings
from infrastructure.store import Connection
from projections.open_meters import bound_segments
from services.scheduler.control import ControlChannel
from services.scheduler.launchers.launcher import Launcher, Pod, PodName
from services.scheduler.segments import Segments
from services.scheduler.silences import Silences


class PodWatch:
    """Looks at every pod again and again; a scheduler that starts adopts what it finds."""

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        broker: NatsBroker,
        pool: ConnectionPool[Connection],
        launcher: Launcher,
        control: ControlChannel,
        segments: Segments,
        settings: Settings,
    ) -> None:
        self._log = log
        self._clock = clock
        self._broker = broker
        self._pool = pool
        self._launcher = launcher
        self._control = control
        self._segments = segments
        self._settings = settings
        self._overdue_since: dict[PodName, float] = {}
        self._speaking: set[PodName] = set()
        self._silences = Silences()
        self._most_silence = max(settings.silence_seconds, 10 * settings.heartbeat_seconds)
        self._logger = logging.getLogger("pods")

    async def run(self) -> None:
        """Watch for ever, once for each heartbeat interval."""
        while True:
            for name in await asyncio.to_thread(self._names):
                try:
                    await self._look(name)
                except Exception:
                    self._logger.exception("looking at %s; trying again", name)
            await asyncio.sleep(self._settings.heartbeat_seconds)

    def _names(self) -> list[PodName]:
        """Every pod there is, and every one that there should be."""
        with self._pool.connection() as connection:
            bound = bound_segments(connection)
        due = {PodName(row["job_id"], row["segment"]) for row in bound}
        return sorted(due | set(self._launcher.pods()))

    async def _look(self, name: PodName) -> None:
        pod = await asyncio.to_thread(self._launcher.poll, name)
        job = await asyncio.to_thread(self._log.find, Job, name.job_id)
        if job is None:
            return
        running = job.segment_running and job.segment == name.segment
        if pod is not None and pod.alive:
            await (self._attend(pod, job) if running else self._hurry(name))
        elif not running:
            if pod is not None:
                await self._sweep(name, job)
        elif job.pod_host not in (None, self._launcher.host):
            await self._attend_elsewhere(name, job)
        elif job.pod is not None:  # else the reaction that launched it has yet to say so
            await self._end(name, None if pod is None else pod.exit_code, job)

    async def _attend(self, pod: Pod, job: Job) -> None:
        """See to a pod that lives and should: evidence, a stop, an end if it hangs."""
        silent_seconds = self._silences.seconds(pod.name, pod.beat)
        if silent_seconds > self._most_silence:
            self._logger.error("killing %s: silent for %.0f s", pod.name, silent_seconds)
            await asyncio.to_thread(self._launcher.kill, pod.name)
            return  # the next look ends its segment
        await self._give_evidence(pod, job)
        if job.stop_requested:  # again and again: a restart must not forget it
            await asyncio.to_thread(self._control.stop, job.id, job.segment)

    async def _attend_elsewhere(self, name: PodName, job: Job) -> None:
        """End a segment of another host if none of its reports arrive, although the bus works.

        That its process is not here says nothing. If it lives after all, it is asked to stop.
        """
        try:
            report = await self._last_report(job, name.segment)
        except Exception:
            self._silences.forget(name)  # a bus that is away silences everybody
            raise
        shown = None if report is None else (report.n, report.outcome)
        silent_seconds = self._silences.seconds(name, shown)
        if silent_seconds > self._most_silence:
            self._logger.error(
                "ending %s on host %s: silent for %.0f s", name, job.pod_host, silent_seconds
            )
            await asyncio.to_thread(self._control.stop, job.id, job.segment)
            await self._end(name, None, job)

    async def _sweep(self, name: PodName, job: Job) -> None:
        """Forget a pod that ended, once its segment has: log and artifacts first."""
        await asyncio.to_thread(self._segments.keep_log, job, name.segment)
        await asyncio.to_thread(self._segments.delete_unnamed, job, name.segment)
        await asyncio.to_thread(self._launcher.remove, name)
        self._segments.forget(name)
        self._control.forget(name.job_id, name.segment)
        self._silences.forget(name)
        self._speaking.discard(name)
        self._overdue_since.pop(name, None)

    async def _give_evidence(self, pod: Pod, job: Job) -> None:
        """Show that the pod lives, until its trainer speaks for itself, now or before a restart."""
        if pod.name in self._speaking or self._segments.heard_of(pod.name):
            return
        segment = pod.name.segment
        if await self._last(report_subject(job.account_id, job.id, segment)) is not None:
            self._speaking.add(pod.name)
            return
        seen = PodSeen(
            account_id=job.account_id,
            job_id=job.id,
            segment=pod.name.segment,
            elapsed_seconds=self._elapsed(pod),
        )
        await self._broker.publish(seen, seen.subject, stream=REPORTS)

    async def _end(self, name: PodName, exit_code: int | None, job: Job) -> None:
        """Hear the last report first: it may hold a checkpoint, or the end itself."""
        report = await self._last_report(job, name.segment)
        if report is not None:
            await asyncio.to_thread(self._segments.record, report)
            elapsed, grace = report.elapsed_seconds, report.grace_seconds
            phase_seconds = report.phase_seconds
        else:
            elapsed, grace = await self._last_evidence(job, name.segment), 0.0
            phase_seconds = {}
        await asyncio.to_thread(
            self._segments.lose, name, int(elapsed), exit_code, phase_seconds, int(grace)
        )

    async def _hurry(self, name: PodName) -> None:
        """Stop a trainer whose segment is over and that does not exit; kill one that hangs."""
        since = self._overdue_since.setdefault(name, time.monotonic())
        overdue_seconds = time.monotonic() - since
        if overdue_seconds > self._settings.grace_seconds + self._most_silence:
            self._logger.error("killing %s: it does not stop", name)
            await asyncio.to_thread(self._launcher.kill, name)
        elif overdue_seconds > self._settings.grace_seconds:
            self._logger.warning("stopping %s: its segment is over", name)
            await asyncio.to_thread(self._launcher.stop, name)

    async def _last_report(self, job: Job, segment: int) -> Report | None:
        """The newest of what the stream has and what the trainer kept for us to find.

        A report that names another segment is not used.
        """
        subject = report_subject(job.account_id, job.id, segment)
        heard = await self._last(subject)
        kept = await asyncio.to_thread(self._launcher.kept_report, PodName(job.id, segment))
        reports: list[Report] = []
        for data in (heard, kept):
            try:
                if data is None:
                    continue
                report = Report.model_validate_json(data)
            except ValidationError as error:
                self._logger.warning("a last report of %s is unreadable: %s", job.id, error)
                continue
            if report.subject == subject:
                reports.append(report)
        return max(
            reports, key=lambda each: (each.outcome is not None, each.elapsed_seconds), default=None
        )

    async def _last_evidence(self, job: Job, segment: int) -> float:
        seen = PodSeen(account_id=job.account_id, job_id=job.id, segment=segment, elapsed_seconds=0)
        data = await self._last(seen.subject)
        return 0.0 if data is None else PodSeen.model_validate_json(data).elapsed_seconds

    async def _last(self, subject: str) -> bytes | None:
        client = await self._broker.connect()
        try:
            return (await client.jetstream().get_last_msg(REPORTS, subject)).data
        except NotFoundError:
            return None

    def _elapsed(self, pod: Pod) -> float:
        return max(0.0, (self._clock.now() - pod.bound_at).total_seconds())
