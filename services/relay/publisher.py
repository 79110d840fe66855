"""Publishes the log's new events; its cursor is the last message in the stream itself."""

from __future__ import annotations

import asyncio
import logging

from eventsourcing.persistence import Notification, PersistenceError
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import Header
from nats.js.errors import NotFoundError

from domain.event_log import EventLog
from infrastructure.bus import EVENTS, Envelope

BATCH = 500
PUBLISH_SECONDS = 10.0
ID_HEADER = "Ecolink-Notification-Id"


class StreamChanged(Exception):
    """The stream was purged under us; its deduplication window has to pass first."""


class Publisher:
    """Keeps the stream a gapless, ordered copy of the log.

    Each message expects the stream sequence before it, so that a second relay is fenced off by the
    server. A stream that lost its tail, or was deleted, is filled from where it ends.
    """

    def __init__(self, log: EventLog, js: JetStreamContext) -> None:
        self._log = log
        self._js = js
        self._logger = logging.getLogger("relay")

    async def publish_new(self) -> int:
        """Publish everything that the log has and the stream has not; returns how many.

        The stream is asked where it ends each time: it may have lost its tail since the last look.
        """
        published = 0
        try:
            cursor = await self._tail()
            while batch := await self._select(cursor[0]):
                cursor = await self._publish(batch, cursor)
                published += len(batch)
        except (NatsError, TimeoutError, PersistenceError, OSError, StreamChanged) as error:
            self._logger.warning("reading the tail again: %s", error or type(error).__name__)
            await asyncio.sleep(0.2)
        return published

    async def _select(self, after: int) -> list[Notification]:
        return list(
            await asyncio.to_thread(
                self._log.recorder.select_notifications,
                start=after,
                limit=BATCH,
                inclusive_of_start=False,
            )
        )

    async def _tail(self) -> tuple[int, int]:
        """Where the stream ends: (last notification id in it or 0, its last sequence)."""
        sequence = (await self._js.stream_info(EVENTS)).state.last_seq
        try:
            message = await self._js.get_last_msg(EVENTS, "events.>")
        except NotFoundError:
            return 0, sequence
        assert message.headers is not None
        return int(message.headers[ID_HEADER]), sequence

    async def _publish(self, batch: list[Notification], cursor: tuple[int, int]) -> tuple[int, int]:
        """Publish a batch, pipelined; returns the new cursor or raises what went wrong first."""
        prev_id, sequence = cursor
        publishing = []
        for notification in batch:
            envelope = Envelope.of(notification, prev_id)
            headers = {
                Header.MSG_ID: str(notification.id),
                Header.EXPECTED_LAST_SEQUENCE: str(sequence),
                ID_HEADER: str(notification.id),
                "content-type": "application/json",
            }
            content = envelope.model_dump_json().encode()
            # Not publish_async: its future never ends when the server refuses a sequence.
            publishing.append(
                self._js.publish(
                    envelope.subject,
                    content,
                    timeout=PUBLISH_SECONDS,
                    stream=EVENTS,
                    headers=headers,
                )
            )
            prev_id, sequence = notification.id, sequence + 1
        # All of them are waited for: what is still on its way could arrive behind a new attempt.
        acks = await asyncio.gather(*publishing, return_exceptions=True)
        for ack in acks:
            if isinstance(ack, BaseException):
                raise ack
            if ack.duplicate:
                raise StreamChanged("the stream has lost events that the server remembers")
        return prev_id, sequence
