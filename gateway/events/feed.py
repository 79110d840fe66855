"""The feed: the log's newest events, followed once for all clients of this gateway.

One task follows the log and keeps its last events. A client is a position in it: nothing is
queued for anybody. Who is further behind than what is kept reads the log itself, from its index.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from bisect import bisect_right
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple, Protocol
from uuid import UUID

import psycopg
from eventsourcing.persistence import Notification, PersistenceError

from domain.access.api_key import ApiKey
from domain.core.aggregate import Event
from domain.core.event_log import EventLog
from domain.deployments.deployment import Deployment
from gateway.backend import Backend
from gateway.events.schemas import EventAnswer
from infrastructure.consumer import Recorded, recorded
from infrastructure.log_identity import LogReplaced
from infrastructure.store import CHANNEL
from projections.account_events import Interest, indexed_events, job_of

BATCH_EVENTS = 500
KEPT_EVENTS = 2000
POLL_SECONDS, RETRY_SECONDS = 0.25, 1.0
READERS = 2
"""Clients that read the log itself at a time: many that begin at its start must not take all
threads and connections."""

SCANNED_EVENTS = 10_000
"""How much of the log one read looks through beyond its index, for a projector that is behind."""


class FeedEvent:
    """An event as clients are told of it; it is rendered once, if anybody wants it."""

    def __init__(self, log: EventLog, notification: Notification) -> None:
        taken = recorded(log, notification)
        self.sequence, self.event = taken.id, taken.event
        self.account_id = self.event.account_id
        self.deployment = _deployment(log, self.event)
        self.job_id = job_of(self.deployment or self.event)

    @cached_property
    def answer(self) -> EventAnswer:
        """The event as the API says it."""
        return EventAnswer.of(Recorded(self.sequence, self.event), self.job_id)

    @cached_property
    def text(self) -> str:
        """The same, as JSON."""
        return self.answer.model_dump_json()


class Page(NamedTuple):
    """Events after a position, whether there are more now, and up to where this page goes."""

    events: Sequence[FeedEvent]
    has_more: bool
    position: int


class Listener(Protocol):
    """Who is told what the feed takes from the log, as it takes it."""

    def tell(self, batch: Sequence[FeedEvent], revoked_keys: Collection[UUID]) -> None:
        """These events come next in the log, and end these keys."""
        ...

    def wake(self) -> None:
        """The feed is closed."""
        ...


class Follower:
    """One client's place in the log."""

    def __init__(self, feed: EventFeed, interest: Interest, after: int, key_id: UUID) -> None:
        self._feed, self._interest, self._key_id = feed, interest, key_id
        self._news = asyncio.Event()
        self.position = after
        self.revoked = False

    def tell(self, batch: Sequence[FeedEvent], revoked_keys: Collection[UUID]) -> None:
        """Wake up if the log has got something for this client, or its key was revoked."""
        self.revoked = self.revoked or self._key_id in revoked_keys
        includes = self._interest.includes
        if self.revoked or any(includes(told.account_id, told.job_id) for told in batch):
            self._news.set()

    def wake(self) -> None:
        """End a wait."""
        self._news.set()

    async def next_page(self, limit: int, wait_seconds: float | None) -> Page:
        """What follows the position, which moves behind it.

        Waits for the first event, for ever with None; the page is empty when the time is over, the
        key was revoked, or the feed is closed.
        """
        loop = asyncio.get_running_loop()
        deadline = None if wait_seconds is None else loop.time() + wait_seconds
        while True:
            self._news.clear()
            page = await self._feed.page(self._interest, self.position, limit)
            self.position = page.position
            if page.events or self.revoked or self._feed.closed:
                return page
            if page.has_more:
                continue
            try:
                async with asyncio.timeout_at(deadline):
                    await self._news.wait()
            except TimeoutError:
                return page


class EventFeed:
    """The last events of the log, and who follows them."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.floor = sys.maxsize
        """All events with a higher sequence, up to the position, are kept."""
        self.position = 0
        self.closed = False
        self.follows = asyncio.Event()
        """Whether it has found its place in the log."""
        self._kept: list[FeedEvent] = []
        self._last: Notification | None = None
        self._listeners: set[Listener] = set()
        self._logger = logging.getLogger("event_feed")
        self._reading = asyncio.Semaphore(READERS)

    @contextmanager
    def follow(self, interest: Interest, after: int, key_id: UUID) -> Generator[Follower]:
        """A place in the log behind a sequence."""
        follower = Follower(self, interest, after, key_id)
        with self.tells(follower):
            yield follower

    @contextmanager
    def tells(self, listener: Listener) -> Generator[None]:
        """Have somebody told of each event behind the position."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    async def page(self, interest: Interest, after: int, limit: int) -> Page:
        """What follows a sequence: of what is kept, if that reaches so far back."""
        if after >= self.floor:
            return self.recent(interest, after, limit)
        async with self._reading:
            return await asyncio.to_thread(_rendered, self.backend, interest, after, limit)

    def recent(self, interest: Interest, after: int, limit: int) -> Page:
        """The same page as the log has, of what is kept; `after` is not below the floor."""
        found: list[FeedEvent] = []
        begin = bisect_right(self._kept, after, key=lambda told: told.sequence)
        for index in range(begin, len(self._kept)):
            told = self._kept[index]
            if interest.includes(told.account_id, told.job_id):
                found.append(told)
                if len(found) == limit:
                    return Page(found, told.sequence < self.position, told.sequence)
        return Page(found, False, max(after, self.position))

    def close(self) -> None:
        """Let everybody who waits go: the gateway ends."""
        self.closed = True
        for listener in self._listeners:
            listener.wake()

    async def run(self) -> None:
        """Follow the log for ever; what breaks is tried again, from where it broke.

        Raises LogReplaced if the log lacks the last event that clients were told of.
        """
        while True:
            try:
                await self._follow()
            except LogReplaced:
                raise
            except (psycopg.Error, PersistenceError, OSError) as error:
                self._logger.warning("%s; following anew", error or type(error).__name__)
            except Exception:
                self._logger.exception("the feed stands still; trying again")
            await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self) -> None:
        url = self.backend.settings.database_url
        assert url is not None
        # LISTEN comes first, so that nothing is missed; the poll covers lost notifications.
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            if self.floor == sys.maxsize:
                head = await asyncio.to_thread(self.backend.log.recorder.max_notification_id)
                self.position = self.floor = max(0, (head or 0) - KEPT_EVENTS)
            while True:
                await self._take_new()
                self.follows.set()
                async for _ in connection.notifies(timeout=POLL_SECONDS, stop_after=1):
                    pass

    async def _take_new(self) -> None:
        while found := await asyncio.to_thread(_after, self.backend.log, self.position, self._last):
            batch = [FeedEvent(self.backend.log, notification) for notification in found]
            self._kept += batch
            self.position, self._last = found[-1].id, found[-1]
            if len(self._kept) > 2 * KEPT_EVENTS:
                gone = self._kept[:-KEPT_EVENTS]
                self.floor = gone[-1].sequence
                del self._kept[: len(gone)]
            revoked_keys = {
                told.event.originator_id
                for told in batch
                if isinstance(told.event, ApiKey.ApiKeyRevoked)
            }
            for listener in list(self._listeners):
                try:
                    listener.tell(batch, revoked_keys)
                except Exception:  # of one; the others have to hear of it all the same
                    self._logger.exception("a listener was not told of events")


def read_log(backend: Backend, interest: Interest, after: int, limit: int) -> Page:
    """A page of the log: by the index as far as that goes, and then by looking at each event."""
    log = backend.log
    with backend.pool.connection() as connection:
        indexed, position = indexed_events(connection, interest, after, limit)
    found = [FeedEvent(log, notification) for notification in indexed]
    if len(found) == limit:
        return Page(found, True, found[-1].sequence)
    scanned = 0
    while scanned < SCANNED_EVENTS:
        batch = _told_after(log, position)
        for told in batch:
            position = told.sequence
            if interest.includes(told.account_id, told.job_id):
                found.append(told)
                if len(found) == limit:
                    return Page(found, True, position)
        scanned += len(batch)
        if len(batch) < BATCH_EVENTS:
            return Page(found, False, position)
    return Page(found, True, position)


def _after(log: EventLog, position: int, last: Notification | None) -> Sequence[Notification]:
    """What follows the last event, which one query reads again: a restore may have removed it.

    Raises LogReplaced.
    """
    if last is None:
        return log.recorder.select_notifications(
            start=position, limit=BATCH_EVENTS, inclusive_of_start=False
        )
    found = log.recorder.select_notifications(start=last.id, limit=BATCH_EVENTS + 1)
    if not found or found[0] != last:
        raise LogReplaced(f"The event log lacks event {last.id}, which clients were told of.")
    return found[1:]


def _rendered(backend: Backend, interest: Interest, after: int, limit: int) -> Page:
    """A page of the log whose texts are made, so that the event loop only sends them."""
    page = read_log(backend, interest, after, limit)
    for told in page.events:
        _ = told.text
    return page


def _told_after(log: EventLog, position: int) -> list[FeedEvent]:
    notifications = log.recorder.select_notifications(
        start=position, limit=BATCH_EVENTS, inclusive_of_start=False
    )
    return [FeedEvent(log, notification) for notification in notifications]


def _deployment(log: EventLog, event: Event) -> Deployment.DeploymentRequested | None:
    """How a deployment began, which alone says what it serves; None of any other event."""
    if not isinstance(event, Deployment.Event):
        return None
    first = event if event.originator_version == 1 else log.first_event(event.originator_id)
    assert isinstance(first, Deployment.DeploymentRequested)
    return first
