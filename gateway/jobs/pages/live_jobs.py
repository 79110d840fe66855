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
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from eventsourcing.persistence import PersistenceError

from domain.catalog.display_names import DisplayNames
from domain.core.errors import Invalid
from gateway.events.feed import EventFeed, FeedEvent
from gateway.jobs.pages.story import Entry, entries_of
from gateway.jobs.pages.view import CHECKPOINTS, MOVING, PARTS, VIEWED, JobView, views_of
from gateway.jobs.pages.watched_job import KEPT, Seen, WatchedJob
from infrastructure.measurements import Place, newest_of
from infrastructure.sessions import ended_among
from projections.account_events import Interest
from projections.projection import lowest_position

SLOTS, SLOT_SECONDS = 10, 0.1
"""Each job is asked once a second for what was measured, some every tenth of it: so few frames go
out at once that an event does not wait behind them."""

REFRESH_SLOTS = 50
"""After so many a view is read anew although nothing happened: waits change by themselves."""

LAG_SECONDS, SESSIONS_SECONDS = 0.04, 5.0
PATIENCE_SECONDS = 2.0
"""How long a view waits for read models that are late, before it is shown as they are."""

RETRY_SECONDS, MOST_RETRY_SECONDS = 1.0, 60.0
"""A view that cannot be shown is tried again after the first, and each time after twice as long."""

OUTAGES = (psycopg.Error, PersistenceError)
"""What breaks all views, and no single one."""

TOO_OLD = "this page is too old; load it again"
VIEWS_AT_ONCE = 10
TABLES = {
    "steps": "step_measurements",
    "evaluations": "evaluation_measurements",
    "lines": "log_lines",
}


class Shown(NamedTuple):
    """A job as it is now: whether it is over, and the HTML of parts of its page."""

    over: bool
    parts: dict[str, str]
    checkpoints_state: object

    @classmethod
    def of(cls, view: JobView, parts: Sequence[str], known: object) -> Shown:
        """Some parts of a view, without the checkpoints if they are known."""
        state = view.checkpoints_state
        if CHECKPOINTS not in parts:
            return cls(view.job.status.is_final, view.parts(parts), known)
        wanted = [each for each in parts if each != CHECKPOINTS or state != known]
        return cls(view.job.status.is_final, view.parts(wanted), state)


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
        """What it misses, as a text that it shares with all who miss the same; None if nothing.

        Raises Invalid if events that it misses are no longer kept.
        """
        if not self.job.measured:
            return None
        tick, self.tick = self.tick, self.job.tick
        if tick is None:
            return self.job.frame_after(self.seen)
        if tick < self.job.complete:
            raise Invalid(TOO_OLD)
        return self.job.frame_since(tick) if tick < self.job.tick else None


class LiveJobs:
    """The jobs that are looked at, and by whom."""

    def __init__(self, feed: EventFeed) -> None:
        self.feed = feed
        self._jobs: dict[UUID, WatchedJob] = {}
        self._viewers: dict[UUID, set[Viewer]] = {}
        self._revoked: set[UUID] = set()
        """Keys that were revoked since it began: perhaps after a page with one was let in."""
        self._news = asyncio.Event()
        self._logger = logging.getLogger("live_jobs")

    @contextmanager
    def view(
        self,
        account_id: UUID,
        job_id: UUID,
        places: DisplayNames,
        key_id: UUID,
        session_id: UUID,
        seen: Seen,
    ) -> Generator[Viewer]:
        """A page looks at a job of its account; the feed follows the log already."""
        job = self._jobs.get(job_id)
        if job is None:
            job = WatchedJob(account_id, job_id, places, self.feed.position)
            self._jobs[job_id] = job
        viewer = Viewer(job, key_id, session_id, seen, ended=key_id in self._revoked)
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
        return job.recall(entries_of(page.events, job.places), after)

    def tell(self, batch: Sequence[FeedEvent], revoked_keys: Collection[UUID]) -> None:
        """Events came: lines for their jobs, and news for the views of their accounts."""
        if revoked_keys:
            self._revoked |= set(revoked_keys)
            self._end(lambda viewer: viewer.key_id in revoked_keys)
        for job in self._jobs.values():
            own = [
                told
                for told in batch
                if told.account_id == job.account_id and told.job_id in (None, job.job_id)
            ]
            if own:
                job.tell(self._entries(own, job.places), own[-1].sequence)
                self._wake(job)
                self._news.set()

    def _entries(self, events: Sequence[FeedEvent], places: DisplayNames) -> list[Entry]:
        """The lines of the timeline; an event that cannot be said is left out."""
        try:
            return entries_of(events, places)
        except Exception:
            self._logger.exception("an event has no line")
            if len(events) == 1:
                return []
            middle = len(events) // 2
            return [
                *self._entries(events[:middle], places),
                *self._entries(events[middle:], places),
            ]

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
                except (*OUTAGES, OSError) as error:
                    self._logger.warning("%s; trying again", error or type(error).__name__)
                except Exception:
                    self._logger.exception("the pages of jobs stand still; trying again")
                await asyncio.sleep(RETRY_SECONDS)
                for job in self._jobs.values():
                    job.stale = True

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        measured_at = checked_at = loop.time()
        slot = 0
        late_since: float | None = None
        while True:
            await self._wait(measured_at + SLOT_SECONDS, late_since)
            now = loop.time()
            if now >= measured_at + SLOT_SECONDS:
                measured_at, slot = now, slot + 1
                await self._measure(slot)
                for job in self._jobs.values():
                    due = (job.job_id.int + slot) % REFRESH_SLOTS == 0
                    job.stale = job.stale or (due and not job.over)
            elif not all(job.measured for job in self._jobs.values()):
                await self._measure(None)
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

    async def _measure(self, slot: int | None) -> None:
        """Ask for what was measured of the jobs of a slot, and of those never asked about."""
        jobs = [
            job
            for job in self._jobs.values()
            if not job.measured or (slot is not None and (job.job_id.int + slot) % SLOTS == 0)
        ]
        if not jobs:
            return
        known = {name: {job.job_id: job.series[name].last for job in jobs} for name in TABLES}
        found = await asyncio.to_thread(self._measured, known)
        for job in jobs:
            begun = job.measured
            new = {name: rows.get(job.job_id, []) for name, rows in found.items()}
            if job.measure(new, KEPT):
                job.moved = True  # they go out together with the figures that they change
            if not begun:
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
        now = asyncio.get_running_loop().time()
        jobs = [job for job in self._jobs.values() if job.retry_at <= now]
        if not any(job.stale or job.moved for job in jobs):
            return False
        position = await asyncio.to_thread(self._position)
        stale = [job for job in jobs if job.stale]
        ready = [job for job in stale if job.wanted <= position or not patient]
        for job in ready:
            job.stale = job.wanted > position
            job.moved = False
        await self._render(ready, PARTS)
        moved = [job for job in jobs if job.moved and job.retry_at <= now]
        for job in moved:
            job.moved = False
        await self._render(moved, MOVING)
        return any(job.stale and job.retry_at <= now for job in jobs)

    async def _render(self, jobs: Sequence[WatchedJob], parts: Sequence[str]) -> None:
        """Show some parts of jobs as they are now; some jobs at once, not to hold up the others."""
        for first in range(0, len(jobs), VIEWS_AT_ONCE):
            some = jobs[first : first + VIEWS_AT_ONCE]
            shown = await asyncio.to_thread(self._shown, some, parts)
            for job in some:
                found = shown.get(job.job_id)
                if found is None:
                    if job.job_id in shown:
                        self._put_off(job)
                else:
                    job.over, new = found.over, found.parts
                    job.checkpoints_state = found.checkpoints_state
                    job.retry_seconds = 0.0
                    if job.show(new) or parts is MOVING:
                        self._wake(job)

    def _put_off(self, job: WatchedJob) -> None:
        """Try the view of one job again later; what is measured goes out without its figures."""
        job.retry_seconds = min(max(RETRY_SECONDS, 2 * job.retry_seconds), MOST_RETRY_SECONDS)
        job.retry_at = asyncio.get_running_loop().time() + job.retry_seconds
        job.stale = True
        self._wake(job)

    def _position(self) -> int:
        with self.feed.backend.pool.connection() as connection:
            return lowest_position(connection, VIEWED)

    def _shown(self, jobs: Sequence[WatchedJob], parts: Sequence[str]) -> dict[UUID, Shown | None]:
        """How each job is now, those that the read models know; None for one that breaks.

        This runs in a thread.
        """
        try:
            views = views_of(self.feed.backend, [job.job_id for job in jobs])
            return {
                job.job_id: Shown.of(views[job.job_id], parts, job.checkpoints_state)
                for job in jobs
                if job.job_id in views
            }
        except OUTAGES:
            raise
        except Exception:  # of one of them
            if len(jobs) == 1:
                self._logger.exception("the page of job %s cannot be shown", jobs[0].job_id)
                return {jobs[0].job_id: None}
            alone = [self._shown([job], parts) for job in jobs]
            return {job_id: shown for each in alone for job_id, shown in each.items()}

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
        for viewer in self._viewers.get(job.job_id, ()):
            viewer.news.set()
