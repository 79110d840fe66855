"""Watched jobs. One task reads their changes once for all viewers.

Events arrive from the feed of the gateway and are sent immediately as timeline entries. The view
follows when the read models have processed the events. Metrics and log lines are not events, so the
task polls each job for them once a second.
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

from domain.core.errors import Invalid
from gateway.events.feed import EventFeed, FeedEvent
from gateway.http.access import Caller
from gateway.http.permissions import DOWNLOAD
from gateway.jobs.pages.timeline import Entry, entries_of
from gateway.jobs.pages.view import CHECKPOINTS, MOVING, PARTS, SAMPLES, VIEWED, JobView, views_of
from gateway.jobs.pages.watched_job import KEPT, Seen, WatchedJob
from infrastructure.accounts.sessions import ended_among
from infrastructure.training.measurements import Place, newest_of
from projections.account_events import EventFilter
from projections.projection import lowest_position

SLOTS, SLOT_SECONDS = 10, 0.1
"""Polls of each job once a second, in slots: events do not wait behind many frames."""

REFRESH_SLOTS = 50
"""Slots until a view is refreshed without an event, because expected waits change over time."""

LAG_SECONDS, SESSIONS_SECONDS = 0.04, 5.0
PATIENCE_SECONDS = 2.0
"""Maximum seconds that a view waits for late read models. Then it shows them as they are."""

RETRY_SECONDS, MOST_RETRY_SECONDS = 1.0, 60.0
"""Seconds until the task retries a failed view. They double with each failure up to a maximum."""

OUTAGES = (psycopg.Error, PersistenceError)
"""Errors that affect all views, not only one."""

TOO_OLD = "This page is too old. Reload it."
VIEWS_AT_ONCE = 10
TABLES = {
    "steps": "step_measurements",
    "evaluations": "evaluation_measurements",
    "lines": "log_lines",
}


class Shown(NamedTuple):
    """The current state of a job: `over`, and the HTML of parts of its page."""

    over: bool
    parts: dict[str, str]
    checkpoints_state: object

    @classmethod
    def of(cls, view: JobView, parts: Sequence[str], known: object) -> Shown:
        """Render the given parts of a view, except for unchanged checkpoints."""
        state = view.checkpoints_state
        if CHECKPOINTS not in parts:
            return cls(view.job.status.is_final, view.parts(parts), known)
        wanted = [each for each in parts if each not in (CHECKPOINTS, SAMPLES) or state != known]
        return cls(view.job.status.is_final, view.parts(wanted), state)


@dataclass(eq=False)
class Viewer:
    """An open page that has all changes up to a tick of its job."""

    job: WatchedJob
    key_id: UUID
    session_id: UUID
    seen: Seen
    ended: bool  # the session ended, or its key was revoked
    hidden: frozenset[str] = frozenset()  # parts that the page must not show
    tick: int | None = None  # None before the first frame
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def next_frame(self) -> str | None:
        """Return the changes since the last frame, shared by viewers at a tick, or None."""
        if not self.job.measured:
            return None
        tick, self.tick = self.tick, self.job.tick
        if tick is None:
            return self.job.frame_after(self.seen, self.hidden)
        if tick < self.job.complete:
            raise Invalid(TOO_OLD)
        return self.job.frame_since(tick, self.hidden) if tick < self.job.tick else None


class LiveJobs:
    """The watched jobs and their viewers."""

    def __init__(self, feed: EventFeed) -> None:
        self.feed = feed
        self._jobs: dict[UUID, WatchedJob] = {}
        self._viewers: dict[UUID, set[Viewer]] = {}
        self._news = asyncio.Event()
        self._logger = logging.getLogger("live_jobs")

    @contextmanager
    def view(self, job_id: UUID, caller: Caller, session_id: UUID, seen: Seen) -> Generator[Viewer]:
        """Add a viewer of the caller's job. The feed must already follow the log."""
        job = self._jobs.get(job_id)
        if job is None:
            job = WatchedJob(caller.account_id, job_id, self.feed.position)
            self._jobs[job_id] = job
        # The key may have been revoked while its page was being admitted.
        revoked = caller.key_id in self.feed.revoked_keys
        hidden = frozenset({SAMPLES} if not DOWNLOAD.allows(caller.rights) else ())
        viewer = Viewer(job, caller.key_id, session_id, seen, revoked, hidden)
        self._viewers.setdefault(job_id, set()).add(viewer)
        self._news.set()
        try:
            yield viewer
        finally:
            self._viewers[job_id].discard(viewer)
            if not self._viewers[job_id]:
                del self._viewers[job_id], self._jobs[job_id]

    async def recall(self, viewer: Viewer) -> bool:
        """Load the events that a page missed into the job. Return False if there are too many."""
        job, after = viewer.job, viewer.seen.sequence
        if after >= job.floor:
            return True
        page = await self.feed.page(EventFilter(job.account_id, job.job_id), after, KEPT)
        if page.has_more and page.position < job.floor:
            return False
        return job.recall(entries_of(page.events), after)

    def tell(self, batch: Sequence[FeedEvent], revoked_keys: Collection[UUID]) -> None:
        """Add the entries of new events, and mark the views of their accounts as stale."""
        if revoked_keys:
            self._end(lambda viewer: viewer.key_id in revoked_keys)
        for job in self._jobs.values():
            own = [
                each
                for each in batch
                if each.account_id == job.account_id and each.job_id in (None, job.job_id)
            ]
            if own:
                job.tell(self._entries(own), own[-1].sequence)
                self._wake(job)
                self._news.set()

    def _entries(self, events: Sequence[FeedEvent]) -> list[Entry]:
        """Return the timeline entries. Log and omit an event that cannot be rendered."""
        try:
            return entries_of(events)
        except Exception:
            self._logger.exception("cannot describe an event")
            if len(events) == 1:
                return []
            middle = len(events) // 2
            return [*self._entries(events[:middle]), *self._entries(events[middle:])]

    def wake(self) -> None:
        """Wake all viewers, because the gateway is stopping."""
        for job in self._jobs.values():
            self._wake(job)

    async def run(self) -> None:
        """Read changes until cancelled. Log failures and continue."""
        with self.feed.tells(self):
            while True:
                try:
                    await self._read()
                except (*OUTAGES, OSError) as error:
                    self._logger.warning("%s; trying again", error or type(error).__name__)
                except Exception:
                    self._logger.exception("cannot update the pages of jobs; trying again")
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
        """Wait for new events or until a time. If read models are late, wait only briefly."""
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
                job.moved = True  # send them together with the values that changed
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
        """Update changed views. Return True if some still wait for late read models."""
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
        await self._render(ready, (*PARTS, SAMPLES))
        moved = [job for job in jobs if job.moved and job.retry_at <= now]
        for job in moved:
            job.moved = False
        await self._render(moved, MOVING)
        return any(job.stale and job.retry_at <= now for job in jobs)

    async def _render(self, jobs: Sequence[WatchedJob], parts: Sequence[str]) -> None:
        """Render parts of jobs, only a few jobs at a time so that other work does not wait."""
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
        """Retry the view of a job later. Until then, send its metrics without the view."""
        job.retry_seconds = min(max(RETRY_SECONDS, 2 * job.retry_seconds), MOST_RETRY_SECONDS)
        job.retry_at = asyncio.get_running_loop().time() + job.retry_seconds
        job.stale = True
        self._wake(job)

    def _position(self) -> int:
        with self.feed.backend.pool.connection() as connection:
            return lowest_position(connection, VIEWED)

    def _shown(self, jobs: Sequence[WatchedJob], parts: Sequence[str]) -> dict[UUID, Shown | None]:
        """Return each job's state in the read models, in a thread; None if its view fails."""
        try:
            views = views_of(self.feed.backend, [job.job_id for job in jobs])
            return {
                job.job_id: Shown.of(views[job.job_id], parts, job.checkpoints_state)
                for job in jobs
                if job.job_id in views
            }
        except OUTAGES:
            raise
        except Exception:  # from one of the views
            if len(jobs) == 1:
                self._logger.exception("cannot show the page of job %s", jobs[0].job_id)
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
