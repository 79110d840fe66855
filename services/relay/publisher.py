"""Publisher of new events. Its cursor is the last message of the stream."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from uuid import UUID

from eventsourcing.persistence import Notification, PersistenceError
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError
from pydantic import ValidationError

from domain.core.event_log import EventLog
from infrastructure.bus.streams import EVENTS, Envelope
from infrastructure.postgres.primary import Timeline
from infrastructure.rights import SYSTEM_API
from services.relay.batch import LOG_HEADER, TIMELINE_HEADER, Batch, Tail
from services.relay.published import record_published

BATCH = 500
"""Maximum number of events in a batch. The server accepts 1,000."""

IN_FLIGHT = 3
"""Maximum number of batches without an acknowledgement."""

PUBLISH_SECONDS = 5.0
"""Maximum wait for an acknowledgement. Messages to a leader that was killed get none."""


Read = Callable[[int | None, int], tuple[Sequence[Notification], Timeline | None]]


class StreamChanged(Exception):
    """Another relay published meanwhile, or the stream was purged within its window."""


class StreamDiverged(Exception):
    """The last event of the stream is not in the log."""


class ForeignStream(Exception):
    """The stream is a copy of another log."""


class FormerPrimary(Exception):
    """The database is a former primary of the one whose events the stream has."""


class OldServer(Exception):
    """The NATS server does not store batches as a whole."""


class Publisher:
    """A publisher that keeps the stream a gapless, ordered copy of the log.

    It publishes batches, which the server stores as a whole or not at all. Each batch states the
    expected last sequence, so that the server rejects batches of a second relay, and every batch
    after a rejected one. While the server stores a batch, the publisher reads and sends the next.

    If the stream lost its end or was deleted, publishing resumes after the last remaining event. If
    the log lacks the last event of the stream, for example after a restore of the database, the
    publisher purges and refills the stream.

    A former primary of PostgreSQL, which froze during a failover, may have events that the new one
    lacks. Each message has the timeline of its server. The publisher therefore publishes nothing
    from a server on an earlier timeline than the last message's.
    """

    def __init__(
        self,
        log: EventLog,
        client: Client,
        log_id: UUID,
        read: Read | None = None,
        api: str = SYSTEM_API,
    ) -> None:
        """Publish as `client`, whose prefix of JetStream requests is `api`.

        `read` returns up to a number of events from a position on, and the timeline of their
        server. Without it, the timeline is unknown.
        """

        def select(start: int | None, limit: int) -> tuple[Sequence[Notification], None]:
            return log.recorder.select_notifications(start=start, limit=limit), None

        self._read = read or select
        self._latest: Timeline | None = None
        self._client = client
        self._js = client.jetstream(prefix=api)
        self._log_id = str(log_id)
        self._logger = logging.getLogger("relay")

    async def publish_new(self) -> int:
        """Publish all events that the stream lacks. Return their number.

        Each call reads the end of the stream, because the stream may have lost its end. Raise
        ForeignStream if the stream is a copy of another log, FormerPrimary if it has events of a
        later timeline, and OldServer if the NATS server is too old.
        """
        published = 0
        sent: deque[tuple[Batch, asyncio.Task[None]]] = deque()

        async def acknowledged() -> int:
            batch, acknowledgement = sent[0]
            await acknowledgement
            sent.popleft()
            record_published(batch)
            return len(batch.events)

        try:
            try:
                tail = await self._tail()
                while batch := await asyncio.to_thread(self._next, tail):
                    if len(sent) == IN_FLIGHT:
                        published += await acknowledged()
                    sent.append((batch, await self._send(batch)))
                    tail = batch.tail
                while sent:
                    published += await acknowledged()
            except StreamDiverged as error:
                await _settled(sent)
                self._logger.critical("%s Refilling the stream from the log.", error)
                await self._js.purge_stream(EVENTS)
        except (NatsError, TimeoutError, PersistenceError, OSError, StreamChanged) as error:
            self._logger.warning("retrying from the tail: %s", error or type(error).__name__)
            await asyncio.sleep(0.2)
        finally:
            await _settled(sent)  # a batch that is still on its way could arrive after a retry
        return published

    def _next(self, tail: Tail) -> Batch | None:
        """Return the batch after the tail, or None at the end of the log.

        One query reads the batch, the last event and the timeline, so that no restore or failover
        can happen in between. Raise StreamDiverged if the log lacks the last event.
        """
        last = tail.last
        found, timeline = self._read(None if last is None else last.id, BATCH + 1)
        self._require_latest(timeline)
        if last is not None:
            if not found or not last.wraps(found[0]):
                raise StreamDiverged(f"The log lacks event {last.id} ({last.topic}) of the stream.")
            found = found[1:]
        return Batch.of(found[:BATCH], tail, self._log_id, timeline) if found else None

    def _require_latest(self, timeline: Timeline | None) -> None:
        """Raise FormerPrimary if a server on a later timeline has published events."""
        if timeline is None:
            return
        if self._latest is not None and timeline.is_before(self._latest):
            raise FormerPrimary(
                f"The database is on timeline {timeline}, but the stream {EVENTS} has events of "
                f"timeline {self._latest}: another server was promoted. Make this server a "
                "standby, and correct ECOLINK_DATABASE_URL. If you restored the database on "
                "purpose, run `ecolink events empty-stream`."
            )
        self._latest = timeline

    async def _tail(self) -> Tail:
        """Return the end of the stream.

        Raise ForeignStream if the stream is a copy of another log, and StreamDiverged if its last
        message is not an event. Raise StreamChanged if the stream grew between the two reads. With
        the last event of one moment and the sequence of another, the server would reject the first
        batch but could accept the second.
        """
        info = await self._js.stream_info(EVENTS)
        if not info.config.allow_atomic:
            raise OldServer("The NATS server cannot store batches. Use NATS 2.12 or newer.")
        sequence = info.state.last_seq
        try:
            message = await self._js.get_last_msg(EVENTS, "events.>")
        except NotFoundError:
            return Tail(sequence, None)
        if message.seq is None or message.seq > sequence:
            raise StreamChanged("Another relay published meanwhile.")
        headers = message.headers or {}
        if (timeline := headers.get(TIMELINE_HEADER)) is not None:
            published = Timeline.parsed(timeline)
            if self._latest is None or not published.is_before(self._latest):
                self._latest = published
        log_id = headers.get(LOG_HEADER, self._log_id)
        if log_id != self._log_id:
            raise ForeignStream(
                f"The stream {EVENTS} is a copy of log {log_id}, but the database has log "
                f"{self._log_id}. Correct ECOLINK_DATABASE_URL or ECOLINK_NATS_URL. If the stream "
                "is obsolete, run `ecolink events empty-stream`."
            )
        try:
            return Tail(sequence, Envelope.model_validate_json(message.data or b""))
        except ValidationError as error:
            raise StreamDiverged("The last message of the stream is not an event.") from error

    async def _send(self, batch: Batch) -> asyncio.Task[None]:
        """Send the messages of a batch. Return a task that ends when the server has stored them.

        The task sends the last message, which commits the batch. It starts before the next batch
        is sent, because reading a batch suspends the caller.
        """
        *others, last = batch.messages()
        for message in others:
            await self._client.publish(message.subject, message.content, headers=message.headers)

        async def commit() -> None:
            acknowledgement = await self._js.publish(
                last.subject, last.content, timeout=PUBLISH_SECONDS, headers=last.headers
            )
            if acknowledgement.duplicate:
                raise StreamChanged("The stream lost events within its deduplication window.")

        return asyncio.create_task(commit())


async def _settled(sent: deque[tuple[Batch, asyncio.Task[None]]]) -> None:
    """Wait until the server has stored or rejected all batches, or has not answered in time."""
    await asyncio.gather(*(each for _, each in sent), return_exceptions=True)
