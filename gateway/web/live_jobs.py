"""All jobs that somebody looks at: one task reads what is new of them, once for all viewers.

Events come from the gateway's feed of the log and go out at once, as lines of the timeline. The
view follows as soon as the read models show them. What trainers measure and log is no event: it is
asked for about once a second, in one query for all jobs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
from eventsourcing.persistence import PersistenceError

from gateway.event_feed import EventFeed, Told
from gateway.web.job_story import entries_of
from gateway.web.job_view import VIEWED, JobView, views_of
from gateway.web.watched_job import KEPT, Seen, WatchedJob
from infrastructure.measurements import Place, newest_of
from infrastructure.sessions import ended_among
from projections.account_events import Interest
from projections.projection import lowest_position

MEASURED_SECONDS, LAG_SECONDS, REFRESH_SECONDS, SESSIONS_SECONDS = 1.0, 0.04, 5.0, 5.0
PATIENCE_SECONDS = 2.0
"""How long a view waits for read models that are late, before it is shown as they are."""

RETRY_SECONDS = 1.0
VIEWS_AT_ONCE = 10
TABLES = {
    "steps": "step_measurements",
    "evaluations": "evaluation_measurements",
    "lines": "log_lines",
}


@dataclass(eq=False)
class Viewer:
    """One page that is open: a place in what came of its job."""

    job: WatchedJob
    key_id: UUID
    session_id: UUID
    seen: Seen
    tick: int | None = None  # None: nothing was sent yet
    ended: bool = False  # its session, or its key
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def next_frame(self) -> str | None:
        """What it misses, as a text that it shares with all who miss the same; None if nothing."""
        if not self.job.measured:
            return None
        tick, self.tick = self.tick, self.job.tick
        if tick is None:
            return self.job.frame_after(self.seen)
        return self.job.frame_since(tick) if tick < self.job.tick else None


class LiveJobs:
    """The jobs that are looked at, and by whom."""

    def __init__(self, feed: EventFeed) -> None:
        self.feed = feed
        self._jobs: dict[UUID, WatchedJob] = {}
        self._viewers: dict[UUID, set[Viewer]] = {}
        self._news = asyncio.Event()
        self._logger = logging.getLogger("live_jobs")

    @contextmanager
    def view(
        self, account_id: UUID, job_id: UUID, key_id: UUID, session_id: UUID, seen: Seen
    ) -> Generator[Viewer]:
        """A page looks at a job of its account; the feed follows the log already."""
        job = self._jobs.get(job_id)
        if job is None:
            job = self._jobs[job_id] = WatchedJob(account_id, job_id, self.feed.position)
        viewer = Viewer(job, key_id, session_id, seen)
        self._viewers.setdefault(job_id, set()).add(viewer)
        self._news.set()
        try:
            yield viewer
        finally:
            self._viewers[job_id].discard(viewer)
            if not self._viewers[job_id]:
                del self._viewers[job_id], self._jobs[job_id]

    async def recall(self, viewer: Viewer) -> bool:
        """Have the job keep what a page has missed; False if that is too much to be sent."""
        job, after = viewer.job, viewer.seen.sequence
        if after >= job.floor:
            return True
        page = await self.feed.page(Interest(job.account_id, job.job_id), after, KEPT)
        if page.has_more and page.position < job.floor:
            return False
        job.recall(entries_of(page.events), after)
        return True

    def tell(self, batch: Sequence[Told], revoked_keys: Collection[UUID]) -> None:
        """Events came: lines for their jobs, and news for the views of their accounts."""
        for job in self._jobs.values():
            own = [
                told
                for told in batch
                if told.account_id == job.account_id and told.job_id in (None, job.job_id)
            ]
            if own:
                job.tell(entries_of(own), own[-1].sequence)
                self._wake(job)
                self._news.set()
        if revoked_keys:
            self._end(lambda viewer: viewer.key_id in revoked_keys)

    def wake(self) -> None:
        """The gateway ends."""
        for job in self._jobs.values():
            self._wake(job)

    async def run(self) -> None:
        """Read what is new for ever; what breaks is tried again."""
        with self.feed.tells(self):
            while True:
                try:
                    await self._read()
                except (psycopg.Error, PersistenceError, OSError) as error:
                    self._logger.warning("%s; trying again", error or type(error).__name__)
                except Exception:
                    self._logger.exception("the pages of jobs stand still; trying again")
                await asyncio.sleep(RETRY_SECONDS)

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        measured_at = refreshed_at = checked_at = loop.time()
        late_since: float | None = None
        while True:
            await self._wait(measured_at + MEASURED_SECONDS, late_since)
            now = loop.time()
            begun = all(job.measured for job in self._jobs.values())
            if not begun or now >= measured_at + MEASURED_SECONDS:
                measured_at = now
                await self._measure()
            if now >= refreshed_at + REFRESH_SECONDS:
                refreshed_at = now  # a wait for GPUs, or a price, changes without an event
                for job in self._jobs.values():
                    job.stale = job.stale or not job.over
            if now >= checked_at + SESSIONS_SECONDS:
                checked_at = now
                await self._check_sessions()
            patient = late_since is None or now < late_since + PATIENCE_SECONDS
            late = await self._show(patient)
            late_since = (late_since or now) if late and patient else None

    async def _wait(self, until: float, late_since: float | None) -> None:
        """Until there is news, or it is time; read models that are late are asked again soon."""
        loop = asyncio.get_running_loop()
        if late_since is not None:
            await asyncio.sleep(LAG_SECONDS)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout_at(max(until, loop.time())):
                await self._news.wait()
        self._news.clear()
        if not self._jobs:
            await self._news.wait()

    async def _measure(self) -> None:
        known = {
            name: {job.job_id: job.series[name].last for job in self._jobs.values()}
            for name in TABLES
        }
        found = await asyncio.to_thread(self._measured, known)
        for job in list(self._jobs.values()):
            if any(job.job_id not in asked for asked in known.values()):
                continue  # it came while the others were read
            begun = job.measured
            new = {name: rows.get(job.job_id, []) for name, rows in found.items()}
            if job.measure(new, KEPT):
                job.stale = True
                self._wake(job)
            elif not begun:
                self._wake(job)

    def _measured(
        self, known: dict[str, dict[UUID, Place]]
    ) -> dict[str, dict[UUID, list[dict[str, Any]]]]:
        with self.feed.backend.pool.connection() as connection:
            return {
                name: newest_of(connection, table, known[name], KEPT)
                for name, table in TABLES.items()
            }

    async def _show(self, patient: bool) -> bool:
        """Show what changed; whether views wait for read models that have not seen it yet."""
        stale = [job for job in self._jobs.values() if job.stale]
        if not stale:
            return False
        position = await asyncio.to_thread(self._position)
        ready = [job for job in stale if job.wanted <= position or not patient]
        for first in range(0, len(ready), VIEWS_AT_ONCE):
            some = ready[first : first + VIEWS_AT_ONCE]
            for job in some:
                job.stale = job.wanted > position
            views = await asyncio.to_thread(self._views, [job.job_id for job in some])
            for job in some:
                if (view := views.get(job.job_id)) is not None:
                    job.over = view.job.status.is_final
                    if job.show(view.parts):
                        self._wake(job)
        return any(job.stale for job in self._jobs.values())

    def _position(self) -> int:
        with self.feed.backend.pool.connection() as connection:
            return lowest_position(connection, VIEWED)

    def _views(self, job_ids: Sequence[UUID]) -> dict[UUID, JobView]:
        """Views whose parts are rendered already, here in a thread."""
        views = views_of(self.feed.backend, job_ids)
        for view in views.values():
            assert view.parts
        return views

    async def _check_sessions(self) -> None:
        sessions = {viewer.session_id for viewers in self._viewers.values() for viewer in viewers}
        ended = await asyncio.to_thread(self._ended, sessions)
        if ended:
            self._end(lambda viewer: viewer.session_id in ended)

    def _ended(self, session_ids: Collection[UUID]) -> set[UUID]:
        with self.feed.backend.pool.connection() as connection:
            return ended_among(connection, session_ids)

    def _end(self, concerns: Callable[[Viewer], bool]) -> None:
        for viewers in self._viewers.values():
            for viewer in viewers:
                if concerns(viewer):
                    viewer.ended = True
                    viewer.news.set()

    def _wake(self, job: WatchedJob) -> None:
        for viewer in self._viewers[job.job_id]:
            viewer.news.set()
