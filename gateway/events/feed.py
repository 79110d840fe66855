"""The feed of the newest events, which all clients of this gateway share.

One task follows the log and keeps its last events in memory. A client is only a position in the
log, so nothing is queued per client. A client that is further behind reads the log by its index.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from bisect import bisect_right
from collections.abc import Collection, Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple, Protocol
from uuid import UUID

import psycopg
from eventsourcing.persistence import Notification, PersistenceError

from domain.access.api_key import ApiKey
from domain.billing.account import Account
from domain.core.aggregate import Event
from domain.core.event_log import EventLog
from domain.deployments.deployment import Deployment
from domain.jobs.events import job_of
from gateway.backend import Backend
from gateway.events.schemas import EventResponse
from infrastructure.bus.consumer import Recorded, recorded
from infrastructure.postgres.log_identity import LogReplaced
from infrastructure.postgres.store import connect_to_listen
from projections.account_events import EventFilter, indexed_events

BATCH_EVENTS = 500
KEPT_EVENTS = 2000
POLL_SECONDS, RETRY_SECONDS = 1.0, 1.0
READERS = 2
"""Maximum number of clients that read the log at a time, to leave threads for others."""

SCANNED_EVENTS = 10_000
"""Maximum number of events that one read scans beyond the index, if the projector lags."""


class FeedEvent:
    """An event for clients. It is rendered at most once."""

    def __init__(self, log: EventLog, notification: Notification) -> None:
        taken = recorded(log, notification)
        self.sequence, self.event = taken.id, taken.event
        self.account_id = self.event.account_id
        self.deployment = _deployment(log, self.event)
        self.job_id = job_of(self.deployment or self.event)

    @property
    def model(self) -> str | None:
        """Model name of a deployment event; None for other events."""
        return self.deployment and self.deployment.model

    @cached_property
    def answer(self) -> EventResponse:
        """Schema of the event."""
        return EventResponse.of(Recorded.of(self.sequence, self.event), self.job_id)

    @cached_property
    def text(self) -> str:
        """Event as JSON."""
        return self.answer.model_dump_json()


class Page(NamedTuple):
    """Events after a position. The next page starts after `position`."""

    events: Sequence[FeedEvent]
    has_more: bool
    position: int


class Listener(Protocol):
    """A listener for the events that the feed reads from the log."""

    def tell(self, batch: Sequence[FeedEvent], revoked_keys: Collection[UUID]) -> None:
        """Handle the next events of the log, and the keys that they revoke."""
        ...

    def wake(self) -> None:
        """Handle the closing of the feed."""
        ...


class Follower:
    """The position of one client in the log."""

    def __init__(self, feed: EventFeed, interest: EventFilter, after: int, key_id: UUID) -> None:
        self._feed, self._interest, self._key_id = feed, interest, key_id
        self._news = asyncio.Event()
        self.position = after

    @property
    def revoked(self) -> bool:
        """True if the client's key was revoked."""
        return self._key_id in self._feed.revoked_keys

    def tell(self, batch: Sequence[FeedEvent], revoked_keys: Collection[UUID]) -> None:
        """Wake the client for an event that it follows, or if its key was revoked."""
        includes = self._interest.includes
        if self.revoked or any(includes(told.account_id, told.job_id) for told in batch):
            self._news.set()

    def wake(self) -> None:
        """Wake the client."""
        self._news.set()

    async def next_page(self, limit: int, wait_seconds: float | None) -> Page:
        """Return the events after the position, and advance the position.

        If there are none, wait up to `wait_seconds` for the first one; None waits without a limit.
        The page is empty after a timeout, if the key was revoked, or if the feed is closed.
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
    """The last events of the log, and the clients that follow them."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.floor = sys.maxsize
        """The feed keeps all events with a higher sequence, up to `position`."""
        self.position = 0
        self.closed = False
        self.revoked_keys: set[UUID] = set()
        """Keys revoked since startup. A request may wait for long after its authentication."""
        self.suspended_accounts: set[UUID] = set()
        """Accounts suspended since startup and not reinstated."""
        self.follows = asyncio.Event()
        """Set when the feed has found its initial position in the log."""
        self._kept: list[FeedEvent] = []
        self._last: Notification | None = None
        self._listeners: set[Listener] = set()
        self._logger = logging.getLogger("event_feed")
        self._reading = asyncio.Semaphore(READERS)

    @contextmanager
    def follow(self, interest: EventFilter, after: int, key_id: UUID) -> Generator[Follower]:
        """Add a client that follows the log after a sequence."""
        follower = Follower(self, interest, after, key_id)
        with self.tells(follower):
            yield follower

    @contextmanager
    def tells(self, listener: Listener) -> Generator[None]:
        """Register a listener for new events."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    async def page(self, interest: EventFilter, after: int, limit: int) -> Page:
        """Return events after a sequence, from memory if the feed still keeps them."""
        if after >= self.floor:
            return self.recent(interest, after, limit)
        async with self._reading:
            return await asyncio.to_thread(_rendered, self.backend, interest, after, limit)

    def recent(self, interest: EventFilter, after: int, limit: int) -> Page:
        """Return a page of the kept events. `after` must not be below the floor."""
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
        """Wake all listeners, because the gateway is stopping."""
        self.closed = True
        for listener in self._listeners:
            listener.wake()

    async def run(self) -> None:
        """Follow the log until cancelled. After a failure, continue at the same position.

        Raise LogReplaced if the log lacks the last event that was sent to clients.
        """
        while True:
            try:
                await self._follow()
            except LogReplaced:
                raise
            except (psycopg.Error, PersistenceError, OSError) as error:
                self._logger.warning("%s; following the log again", error or type(error).__name__)
            except Exception:
                self._logger.exception("cannot follow the log; trying again")
            await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self) -> None:
        # LISTEN first, so that no event is missed. Polling finds events whose notification was
        # lost.
        async with await connect_to_listen(self.backend.settings) as connection:
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
            # In a thread, because requests would wait for the event loop otherwise.
            batch = await asyncio.to_thread(_decoded, self.backend.log, found)
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
            self.revoked_keys |= revoked_keys
            for told in batch:
                if isinstance(told.event, Account.AccountSuspended):
                    self.suspended_accounts.add(told.account_id)
                elif isinstance(told.event, Account.AccountReinstated):
                    self.suspended_accounts.discard(told.account_id)
            for listener in list(self._listeners):
                try:
                    listener.tell(batch, revoked_keys)
                except Exception:  # the other listeners must still get the event
                    self._logger.exception("a listener failed to take events")


def read_log(backend: Backend, interest: EventFilter, after: int, limit: int) -> Page:
    """Read a page of the log by its index, then scan events that are not indexed yet."""
    log = backend.log
    with backend.pool.connection() as connection:
        indexed, position = indexed_events(connection, interest, after, limit)
    found = _decoded(log, indexed)
    if len(found) == limit:
        return Page(found, True, found[-1].sequence)
    scanned = 0
    while scanned < SCANNED_EVENTS:
        batch = _events_after(log, position)
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
    """Return the events after `last`, which a restored backup may lack: then raise LogReplaced."""
    if last is None:
        return log.recorder.select_notifications(
            start=position, limit=BATCH_EVENTS, inclusive_of_start=False
        )
    found = log.recorder.select_notifications(start=last.id, limit=BATCH_EVENTS + 1)
    if not found or found[0] != last:
        raise LogReplaced(f"The event log lacks event {last.id}, which was sent to clients.")
    return found[1:]


def _rendered(backend: Backend, interest: EventFilter, after: int, limit: int) -> Page:
    """Read a page of the log and render it, so that the event loop only sends it."""
    page = read_log(backend, interest, after, limit)
    for told in page.events:
        _ = told.text
    return page


def _events_after(log: EventLog, position: int) -> list[FeedEvent]:
    notifications = log.recorder.select_notifications(
        start=position, limit=BATCH_EVENTS, inclusive_of_start=False
    )
    return _decoded(log, notifications)


def _decoded(log: EventLog, notifications: Iterable[Notification]) -> list[FeedEvent]:
    return [FeedEvent(log, notification) for notification in notifications]


def _deployment(log: EventLog, event: Event) -> Deployment.DeploymentRequested | None:
    """Return the first event of a deployment, which contains the model; None for other events."""
    if not isinstance(event, Deployment.Event):
        return None
    first = event if event.originator_version == 1 else log.first_event(event.originator_id)
    assert isinstance(first, Deployment.DeploymentRequested)
    return first
