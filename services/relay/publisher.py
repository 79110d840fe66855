"""Publisher of new events. Its cursor is the last message of the stream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import time_ns
from uuid import UUID

from eventsourcing.persistence import Notification, PersistenceError
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import Header, PubAck
from nats.js.errors import NotFoundError
from pydantic import ValidationError

from domain.billing.meter import Meter
from domain.core.event_log import EventLog
from infrastructure import tracing
from infrastructure.bus import EVENTS, Envelope
from infrastructure.metrics import (
    CHARGED_MICROS,
    METERED_SECONDS,
    PUBLISH_DELAY_SECONDS,
    PUBLISHED_EVENTS,
)

BATCH = 500
PUBLISH_SECONDS = 10.0
ID_HEADER, LOG_HEADER = "Ecolink-Notification-Id", "Ecolink-Log"


class StreamChanged(Exception):
    """The stream was purged during publishing. Its deduplication window has to pass first."""


class StreamDiverged(Exception):
    """The last event of the stream is not in the log."""


class ForeignStream(Exception):
    """The stream is a copy of another log."""


@dataclass(frozen=True)
class Tail:
    """The end of the stream: its last sequence number, and its last event, if any."""

    sequence: int
    last: Envelope | None


class Publisher:
    """A publisher that keeps the stream a gapless, ordered copy of the log.

    Each message states the expected last sequence, so that the server rejects messages of a second
    relay. If the stream lost its end or was deleted, publishing resumes after the last remaining
    event. If the log lacks the last event of the stream, for example after a restore of the
    database, the publisher purges and refills the stream.
    """

    def __init__(self, log: EventLog, js: JetStreamContext, log_id: UUID) -> None:
        self._log = log
        self._js = js
        self._log_id = str(log_id)
        self._logger = logging.getLogger("relay")

    async def publish_new(self) -> int:
        """Publish all events that the stream lacks. Return their number.

        Each call reads the end of the stream, because the stream may have lost its end. Raise
        ForeignStream if the stream is a copy of another log.
        """
        published = 0
        try:
            try:
                tail = await self._tail()
                while batch := await self._select(tail.last):
                    tail = await self._publish(batch, tail)
                    published += len(batch)
            except StreamDiverged as error:
                self._logger.critical("%s Refilling the stream from the log.", error)
                await self._js.purge_stream(EVENTS)
        except (NatsError, TimeoutError, PersistenceError, OSError, StreamChanged) as error:
            self._logger.warning("retrying from the tail: %s", error or type(error).__name__)
            await asyncio.sleep(0.2)
        return published

    async def _select(self, last: Envelope | None) -> list[Notification]:
        """Return the events after `last`. Raise StreamDiverged if the log lacks `last`.

        One query reads both, so that no restore can happen in between.
        """
        found = list(
            await asyncio.to_thread(
                self._log.recorder.select_notifications,
                start=None if last is None else last.id,
                limit=BATCH + 1,
            )
        )
        if last is None:
            return found
        if not found or not last.wraps(found[0]):
            raise StreamDiverged(f"The log lacks event {last.id} ({last.topic}) of the stream.")
        return found[1:]

    async def _tail(self) -> Tail:
        """Return the end of the stream.

        Raise ForeignStream if the stream is a copy of another log, and StreamDiverged if the log
        lacks its last event.
        """
        sequence = (await self._js.stream_info(EVENTS)).state.last_seq
        try:
            message = await self._js.get_last_msg(EVENTS, "events.>")
        except NotFoundError:
            return Tail(sequence, None)
        log_id = (message.headers or {}).get(LOG_HEADER, self._log_id)
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

    async def _publish(self, batch: list[Notification], tail: Tail) -> Tail:
        """Publish a batch without waiting for each acknowledgement. Return the new tail."""
        sequence, last, started_ns = tail.sequence, tail.last, time_ns()
        publishing: list[Coroutine[None, None, PubAck]] = []
        envelopes: list[Envelope] = []
        for notification in batch:
            envelope = Envelope.of(notification, 0 if last is None else last.id)
            envelopes.append(envelope)
            traceparent = envelope.state.get("traceparent")
            headers = {
                Header.MSG_ID: str(notification.id),
                Header.EXPECTED_LAST_SEQUENCE: str(sequence),
                ID_HEADER: str(notification.id),
                LOG_HEADER: self._log_id,
                "content-type": "application/json",
                **({"traceparent": traceparent} if traceparent else {}),
            }
            content = envelope.model_dump_json().encode()
            # Not publish_async: its future never completes if the server rejects a sequence.
            publishing.append(
                self._js.publish(
                    envelope.subject,
                    content,
                    timeout=PUBLISH_SECONDS,
                    stream=EVENTS,
                    headers=headers,
                )
            )
            last, sequence = envelope, sequence + 1
        # Wait for all messages, because a delayed message could arrive after a retry.
        acks = await asyncio.gather(*publishing, return_exceptions=True)
        for ack in acks:
            if isinstance(ack, BaseException):
                raise ack
            if ack.duplicate:
                raise StreamChanged("The stream lost events within its deduplication window.")
        _count(envelopes)
        _trace(envelopes, (started_ns, time_ns()))
        return Tail(sequence, last)


def _count(envelopes: Sequence[Envelope]) -> None:
    """Count published events in the metrics."""
    now = datetime.now(UTC)
    for each in envelopes:
        PUBLISHED_EVENTS.labels(each.topic).inc()
        at = datetime.fromisoformat(each.state["timestamp"])
        PUBLISH_DELAY_SECONDS.observe(max(0.0, (now - at).total_seconds()))
        if each.topic == Meter.MinuteMetered.TOPIC:
            METERED_SECONDS.inc(each.state["to_seconds"] - each.state["from_seconds"])
            CHARGED_MICROS.inc(each.state["amount_micros"])


def _trace(envelopes: Sequence[Envelope], period: tuple[int, int]) -> None:
    """Record a span for each published event of a trace."""
    if not tracing.is_on():
        return
    for each in envelopes:
        if (traceparent := each.state.get("traceparent")) is not None:
            name, attributes = f"publish {each.topic}", {"event_id": each.event_id}
            tracing.record(traceparent, name, period, kind="PRODUCER", attributes=attributes)
