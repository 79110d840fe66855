"""The last report of each pod, and the scheduler's evidence until the first report."""

from __future__ import annotations

import asyncio
import logging

from nats.js.errors import NotFoundError
from pydantic import ValidationError

from domain.jobs.job import Job
from infrastructure.bus.exchange import read
from infrastructure.bus.pull import LongPollingBroker
from infrastructure.bus.streams import REPORTS
from infrastructure.process.clock import Clock
from infrastructure.training.reports import PodSeen, Report, report_subject
from services.scheduler.launchers.launcher import Launcher, Pod, PodName


class PodReports:
    """Access to the last message of each segment on the REPORTS stream."""

    def __init__(self, broker: LongPollingBroker, clock: Clock, launcher: Launcher) -> None:
        self._broker = broker
        self._clock = clock
        self._launcher = launcher
        self._reporting: set[PodName] = set()

    async def last_report(self, job: Job, segment: int) -> Report | None:
        """Return the segment's newest report, from the stream or the launcher, or None."""
        subject = report_subject(job.account_id, job.id, segment)
        streamed = await self._last(subject)
        kept = await asyncio.to_thread(self._launcher.kept_report, PodName(job.id, segment))
        reports: list[Report] = []
        for data in filter(None, (streamed, kept)):
            try:
                report = read(Report, data)
            except ValidationError as error:
                logging.getLogger("pods").warning(
                    "ignoring an unreadable last report of job %s: %s", job.id, error
                )
                continue
            if report.subject == subject:
                reports.append(report)
        return max(
            reports, key=lambda each: (each.ending is not None, each.elapsed_seconds), default=None
        )

    async def last_evidence(self, job: Job, segment: int) -> float:
        """Return the seconds for which the scheduler itself saw the pod alive; 0 if it did not."""
        seen = PodSeen(account_id=job.account_id, job_id=job.id, segment=segment, elapsed_seconds=0)
        data = await self._last(seen.subject)
        return 0.0 if data is None else read(PodSeen, data).elapsed_seconds

    async def publish_evidence(self, pod: Pod, job: Job) -> None:
        """Publish evidence that the pod is alive, until its trainer has sent a first report."""
        if pod.name in self._reporting:
            return
        segment = pod.name.segment
        if await self._last(report_subject(job.account_id, job.id, segment)) is not None:
            self._reporting.add(pod.name)
            return
        elapsed_seconds = max(0.0, (self._clock.now() - pod.bound_at).total_seconds())
        seen = PodSeen(
            account_id=job.account_id,
            job_id=job.id,
            segment=segment,
            elapsed_seconds=elapsed_seconds,
        )
        await self._broker.publish(seen, seen.subject, stream=REPORTS)

    def forget(self, name: PodName) -> None:
        """Drop the state of a removed pod."""
        self._reporting.discard(name)

    async def _last(self, subject: str) -> bytes | None:
        try:
            js = await self._broker.jetstream()
            return (await js.get_last_msg(REPORTS, subject)).data
        except NotFoundError:
            return None
