"""The queue of runs: each attempt sends what a tracker lacks of one job.

Each request is stored as sent after the tracker has accepted it. If the process is killed in
between, the next attempt repeats the request, and the tracker has each value once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from domain.jobs.lifecycle import JobStatus
from extensions.trackers.process.metrics import TRACKER_ATTEMPT_SECONDS, TRACKER_POINTS
from extensions.trackers.process.points import newest_values, next_batch
from extensions.trackers.process.summary import summary_of
from extensions.trackers.process.tracker import TrackerClient, TrackerFailure
from extensions.trackers.retry_schedule import GIVE_UP, delay_after
from extensions.trackers.runs import RunStatus, Sent, TrackedRun, due_runs, store_run
from infrastructure.http.dispatcher import UNAVAILABLE, Busy
from infrastructure.postgres.log_identity import is_held
from infrastructure.postgres.store import Connection
from infrastructure.process.clock import Clock
from infrastructure.training.measurements import measured_rows
from projections.job_detail import rows_of
from projections.projection import Row

log = logging.getLogger("trackers")

LISTED = 256
"""Runs that one query returns."""

BATCHES = 20
"""Requests with metrics in one attempt, after which other runs have their turn."""

LIVE = timedelta(seconds=2)
"""Time between two attempts for a job that trains."""

IDLE = timedelta(seconds=15)
"""Time between two attempts for a job that is paused or waits."""

LATEST_MEASUREMENT = timedelta(minutes=1)
"""Time after the end of a job for which measurements may still arrive."""

LONGEST_WAIT = timedelta(hours=1)
"""Longest time between two looks at a job that is not approved yet."""

NOT_APPROVED = "The job was not approved."


class Abandoned(Exception):
    """Another process, or the owner, has changed the run meanwhile."""


@dataclass(frozen=True)
class Outcome:
    """The result of an attempt: when the next one is due, or an error, or the end of the run."""

    run: TrackedRun
    after: timedelta = timedelta()
    failure: TrackerFailure | None = None
    status: RunStatus | None = None


class RunQueue:
    """Runs of trackers, at the servers of `client_of`, for EcoLink at the URL `origin`."""

    def __init__(
        self,
        log: EventLog,
        pool: ConnectionPool[Connection],
        clock: Clock,
        client_of: Callable[[Connection, TrackedRun], TrackerClient],
        origin: str | None = None,
    ) -> None:
        self._log, self._pool, self._clock = log, pool, clock
        self._client_of, self._origin = client_of, origin

    def due(self, busy: Busy) -> list[TrackedRun]:
        """Return runs whose next attempt is due, except busy ones."""
        with self._pool.connection() as connection:
            found = due_runs(connection, self._clock.now(), LISTED, busy)
            return [] if found and is_held(connection) else found

    async def send(self, due: TrackedRun) -> Outcome | None:
        """Send what the tracker lacks. Return None if the attempt is abandoned."""
        attempt, begun = _Attempt(self, due), time.monotonic()
        try:
            outcome = await attempt.make()
        except Abandoned:
            return None
        except TrackerFailure as failure:
            outcome = Outcome(attempt.run, failure=failure)
        except UNAVAILABLE as error:
            log.warning("cannot read a run, retrying: %s", error)
            return None
        except Exception as error:
            log.exception("a run of %s failed unexpectedly", due.tracker)
            failure = TrackerFailure(
                f"EcoLink could not send the metrics ({type(error).__name__})."
            )
            outcome = Outcome(attempt.run, failure=failure)
        if attempt.requests:
            label = "accepted" if outcome.failure is None else "failed"
            seconds = time.monotonic() - begun
            TRACKER_ATTEMPT_SECONDS.labels(due.tracker, label).observe(seconds)
        return outcome

    def record(self, due: TrackedRun, result: Outcome | None) -> None:
        """Store the result of an attempt."""
        if result is None:
            return
        now, run = self._clock.now(), result.run
        changes: dict[str, Any]
        if result.failure is None:
            changes = {"failures": 0, "failing_since": None, "error": None}
            changes |= {"next_attempt_at": now + result.after}
        else:
            since = run.failing_since or now
            changes = {"failures": run.failures + 1, "failing_since": since}
            delay = max(delay_after(run.failures + 1), result.failure.retry_after or timedelta())
            changes |= {"error": result.failure.message, "next_attempt_at": now + delay}
            if now - since >= GIVE_UP:
                changes |= {"status": RunStatus.STOPPED}
            log.info("%s of job %s: %s", run.tracker, run.job_id, result.failure.message)
        if result.status is not None:
            changes |= {"status": result.status, "finished_at": now}
        with self._pool.connection() as connection:
            store_run(connection, run, **changes)

    def store(self, run: TrackedRun, **changes: Any) -> TrackedRun:
        """Store progress of an attempt. Raise Abandoned."""
        with self._pool.connection() as connection:
            stored = store_run(connection, run, **changes)
        if stored is None:
            raise Abandoned
        return stored


class _Attempt:
    """One attempt for one run."""

    def __init__(self, queue: RunQueue, run: TrackedRun) -> None:
        self._queue, self.run = queue, run
        self.requests = 0

    async def make(self) -> Outcome:
        """Send what the tracker lacks. Raise TrackerFailure, Abandoned or an error of the pool."""
        job = await asyncio.to_thread(self._job)
        if job is None:
            return self._not_approved()
        client = await asyncio.to_thread(self._client)
        run_id = self.run.run_id
        if run_id is None or self.run.server != client.server:
            run_id = await self._start(client, job)
        for _ in range(BATCHES):
            if not await self._send_batch(client, run_id):
                break
        else:
            return Outcome(self.run)
        status, ended = JobStatus(job["status"]), await asyncio.to_thread(self._is_complete, job)
        if ended and await asyncio.to_thread(self._rewound):
            return Outcome(self.run)  # a measurement arrived out of order: send all again
        if ended or status != self.run.sent.described:
            await self._describe(client, run_id, job, ended)
        if ended:
            return Outcome(self.run, status=RunStatus.FINISHED)
        idle = status is JobStatus.PAUSED or job["training_since"] is None
        return Outcome(self.run, after=IDLE if idle else LIVE)

    def _job(self) -> Row | None:
        with self._queue._pool.connection() as connection:
            return next(iter(rows_of(connection, [self.run.job_id])), None)

    def _client(self) -> TrackerClient:
        with self._queue._pool.connection() as connection:
            return self._queue._client_of(connection, self.run)

    def _not_approved(self) -> Outcome:
        """Return when to look again for a job whose files are not validated, or that is refused."""
        age = self._queue._clock.now() - self.run.created_at
        if age >= GIVE_UP:
            return Outcome(self.run, failure=TrackerFailure(NOT_APPROVED), status=RunStatus.STOPPED)
        return Outcome(self.run, after=min(LIVE + age / 10, LONGEST_WAIT))

    async def _start(self, client: TrackerClient, job: Row) -> str:
        """Start the run. At another server than before, send all again."""
        summary = await asyncio.to_thread(
            summary_of, self._queue._log, job, self._queue._origin, ended=False
        )
        self.requests += 1
        started = await client.start(summary)
        await self._store(
            run_id=started.run_id,
            url=started.url,
            server=client.server,
            status=RunStatus.SENDING,
            sent_at=self._queue._clock.now(),
            sent=Sent(described=job["status"]),
        )
        return started.run_id

    async def _send_batch(self, client: TrackerClient, run_id: str) -> bool:
        """Send the next points. Return False if there are none."""

        def read() -> tuple[Any, dict[str, float]]:
            with self._queue._pool.connection() as connection:
                batch = next_batch(connection, self.run.job_id, self.run.sent, client.most_points)
                return batch, newest_values(connection, self.run.job_id) if batch else {}

        batch, newest = await asyncio.to_thread(read)
        if batch is None:
            return False
        if batch.points:
            self.requests += 1
            await client.send(run_id, batch.points, self.run.sent.lines, newest)
            TRACKER_POINTS.labels(self.run.tracker).inc(len(batch.points))
        await self._store(sent=batch.sent, sent_at=self._queue._clock.now())
        return True

    async def _describe(self, client: TrackerClient, run_id: str, job: Row, ended: bool) -> None:
        def read() -> tuple[Any, dict[str, float]]:
            summary = summary_of(self._queue._log, job, self._queue._origin, ended=ended)
            with self._queue._pool.connection() as connection:
                return summary, newest_values(connection, self.run.job_id)

        summary, newest = await asyncio.to_thread(read)
        self.requests += 1
        await client.describe(run_id, summary, newest)
        await self._store(sent=replace(self.run.sent, described=job["status"]))

    def _is_complete(self, job: Row) -> bool:
        if not JobStatus(job["status"]).is_final:
            return False
        return self._queue._clock.now() - job["changed_at"] >= LATEST_MEASUREMENT

    def _rewound(self) -> bool:
        """Return True, and send all rows again, if late rows were stored behind the sent ones."""
        with self._queue._pool.connection() as connection:
            rows = measured_rows(connection, self.run.job_id)
        if rows == self.run.sent.rows:
            return False
        again = Sent(lines=self.run.sent.lines, described=self.run.sent.described)
        self.run = self._queue.store(self.run, sent=again)
        return True

    async def _store(self, **changes: Any) -> None:
        self.run = await asyncio.to_thread(lambda: self._queue.store(self.run, **changes))
