"""The ordered, exactly-once consumer that runs all projections and event handlers.

A process reads the whole event stream once, in order and in batches. The position of its effect is
the notification ID of the last event whose effect is committed. It commits an effect and the
position together, so redeliveries, restarts and a new stream do no harm.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar, cast
from uuid import UUID

import psycopg
from eventsourcing.persistence import InterfaceError, Notification, OperationalError
from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub
from faststream.nats.message import NatsBatchMessage
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from pydantic import ValidationError
from pydantic_core import from_json

from domain.core.aggregate import Event
from domain.core.event_log import EventLog
from domain.core.recorded import Recorded
from infrastructure.bus.streams import EVENTS, MAX_DELIVERIES, Durable, Envelope
from infrastructure.postgres.log_identity import notification_at
from infrastructure.process.activity import activity
from infrastructure.process.progress import PROGRESS

BATCH_EVENTS = 500

BATCH_SECONDS = 0.1
"""Seconds to collect a batch of reports or measurements after its first message."""

PROMPT_BATCH_SECONDS = 0.02
"""Seconds to collect a batch of events. The start of a job involves four handlers, and requests
wait for projections. Under load, a batch is full sooner, because messages queue while the consumer
applies the previous batch.
"""

MAX_BACKOFF_SECONDS = 5.0

MAX_REDELIVERY_SECONDS = 60.0
"""Longest delay before a message that fails is redelivered."""

STANDSTILL_SECONDS = 30.0
"""Seconds after which a consumer logs its failures as critical."""


UNREACHABLE = (
    OperationalError,
    InterfaceError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    NatsError,
    TimeoutError,
)
"""Errors of an unreachable database or bus."""

T = TypeVar("T")


class Effect(Protocol):
    """The port through which a consumer updates a projection or saves a service's new events.

    The consumer calls both methods from worker threads, one call at a time. If a call raises an
    error, the consumer retries it until it succeeds.
    """

    name: str

    def position(self) -> int:
        """Return the notification ID of the last event with a committed effect; 0 if none."""
        ...

    def apply(self, batch: Sequence[Recorded]) -> None:
        """Commit the effects of a non-empty batch in order, together with the position."""
        ...


class UnknownPosition(Exception):
    """The log has no event at the position of a consumer."""


class OrderedConsumer:
    """A consumer that passes one effect the events of the stream.

    It reads events that the stream lacks from the log. Methods may run in several threads, which
    apply one batch at a time.
    """

    def __init__(self, effect: Effect, log: EventLog) -> None:
        self.effect = effect
        self.durable = Durable(effect.name, EVENTS, "events.>", acknowledges_all=True)
        self._log = log
        self._one_batch = threading.RLock()
        self._logger = logging.getLogger(f"consumer.{effect.name}")

    def subscribe(self, broker: NatsBroker) -> None:
        """Start consuming from the bus when the broker starts."""

        @_batches(broker, self.durable, PROMPT_BATCH_SECONDS, decoder=_contents)
        async def consume(contents: list[Any], message: NatsMessage) -> None:
            await self._until_done(partial(self._consume_contents, contents), "a batch")
            activity().note()
            (*_, last) = cast("list[Msg]", message.raw_message)
            await last.ack()  # and thereby all messages before it

    async def begin(self) -> None:
        """Apply events whose messages are already acknowledged, for example after a rebuild.

        End at the first batch that is not full, because the log may always have some new events.
        This may run concurrently with `subscribe` if the effect skips events up to its position.
        """
        while await self._until_done(self._advance, "the log") == BATCH_EVENTS:
            pass

    async def _until_done(self, step: Callable[[], T], what: str) -> T:
        """Retry a step until it succeeds, because an ordered consumer cannot skip it."""
        backoff, since = 0.1, time.monotonic()
        while True:
            try:
                with PROGRESS.step(self.effect.name):
                    return await asyncio.to_thread(step)
            except Exception:
                seconds = time.monotonic() - since
                standstill = seconds > STANDSTILL_SECONDS
                self._logger.log(
                    logging.CRITICAL if standstill else logging.ERROR,
                    "STUCK for %.0f s: %s" if standstill else "retrying for %.0f s: %s",
                    *(seconds, what),
                    exc_info=True,
                )
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, MAX_BACKOFF_SECONDS)

    def _consume_contents(self, contents: Sequence[bytes]) -> None:
        """Apply a batch of messages. If one is invalid, apply the events of the log."""
        try:
            envelopes = [Envelope.model_validate_json(content) for content in contents]
        except ValidationError:
            self._logger.exception("a message is not an event; reading the log instead")
            self.catch_up()
        else:
            self.consume(envelopes)

    def consume(self, envelopes: Sequence[Envelope]) -> None:
        """Apply a batch from the stream. If stream and log differ, apply the events of the log.

        A batch may contain redelivered and new messages in any order. After a database restore, the
        stream may contain events that the log lacks. If the log contains the last event of a batch,
        it contains the whole batch, because the relay only appends to a stream whose end is in the
        log. If the batch has no new event, apply the next events of the log, because many more such
        messages may be ahead of them in the stream.
        """
        with self._one_batch:
            self._consume(envelopes)

    def _consume(self, envelopes: Sequence[Envelope]) -> None:
        position = self._position()
        fresh = {envelope.id: envelope for envelope in envelopes if envelope.id > position}
        if not fresh:
            self._advance()
            return
        ordered = [fresh[id] for id in sorted(fresh)]
        last = ordered[-1]
        if not last.wraps(notification_at(self._log, last.id)):
            self._logger.error(
                "the log lacks event %d (%s) of the stream; reading the log instead",
                *(last.id, last.topic),
            )
            self.catch_up(stop=last.id)
        elif _is_gapless(position, ordered):
            self.effect.apply([_published(envelope) for envelope in ordered])
        else:
            self.catch_up(stop=last.id)

    def catch_up(self, stop: int | None = None) -> int:
        """Apply the log after the position, up to `stop`. Return the event count.

        Without `stop`, apply the events that the log has at the time of the call.
        """
        if stop is None:
            stop = self._log.recorder.max_notification_id() or 0
        applied = 0
        while events := self._advance(stop):
            applied += events
        return applied

    def _advance(self, stop: int | None = None) -> int:
        """Apply the next batch of the log. Return the number of its events."""
        with self._one_batch:
            batch = self._log.recorder.select_notifications(
                start=self._position(), stop=stop, limit=BATCH_EVENTS, inclusive_of_start=False
            )
            if batch:
                self.effect.apply([recorded(self._log, notification) for notification in batch])
        return len(batch)

    def _position(self) -> int:
        """Return the effect's position. Raise UnknownPosition if the log has no event there."""
        position = self.effect.position()
        if position > 0 and notification_at(self._log, position) is None:
            raise UnknownPosition(
                f"The log lacks event {position}, which {self.effect.name} has applied. "
                "Restore the whole database from one backup."
            )
        return position


def _batches(broker: NatsBroker, durable: Durable, seconds: float, decoder: Any = None) -> Any:
    """Return the subscriber of a durable, a decorator of the function that receives batches."""
    return broker.subscriber(
        durable.filter_subject,
        stream=JStream(durable.stream, declare=False),
        durable=durable.name,
        config=durable.config,
        pull_sub=PullSub(batch_size=BATCH_EVENTS, timeout=seconds, batch=True),
        ack_policy=AckPolicy.MANUAL,
        decoder=decoder,
    )


async def _contents(message: NatsBatchMessage) -> list[bytes]:
    """Return the contents of messages. A thread parses them, because that takes long."""
    return [each.data for each in message.raw_message]


def subscribe_batches(
    broker: NatsBroker, durable: Durable, keep: Callable[[Sequence[object]], None]
) -> None:
    """Consume batches of reports or measurements, which any trainer can send.

    `keep` runs in a thread and must be idempotent. While it raises UNREACHABLE, the consumer calls
    it again with the same batch. After another error, it calls it for each message alone, and the
    bus redelivers those that fail, MAX_DELIVERIES times. `keep` receives only JSON whose content
    names the same segment as its subject, because NATS restricts the subjects of a trainer but not
    the content.
    """
    received = ReceivedMessages(durable.name, keep)

    @_batches(broker, durable, BATCH_SECONDS, decoder=_contents)
    async def consume(contents: list[Any], message: NatsMessage) -> None:
        await received.take(cast("list[Msg]", message.raw_message))


class ReceivedMessages:
    """The messages of one durable, which are kept, redelivered or dropped, one by one if needed."""

    def __init__(self, name: str, keep: Callable[[Sequence[object]], None]) -> None:
        self._name, self._keep = name, keep
        self._logger = logging.getLogger(f"consumer.{name}")

    async def take(self, messages: Sequence[Msg]) -> None:
        """Keep the valid messages of a batch, and drop the others."""
        parsed = await asyncio.to_thread(lambda: [(each, self._parsed(each)) for each in messages])
        for message, content in parsed:
            if content is None:
                await message.term()
        if valid := [each for each in parsed if each[1] is not None]:
            await self._keep_all(valid)

    def _parsed(self, message: Msg) -> object | None:
        """Return the content of a message. Log an invalid one, and return None."""
        try:
            content = from_json(message.data, allow_inf_nan=False)  # at most 200 levels
            if names_subject(message.subject, content):
                return content
            self._logger.warning(
                "dropping a message on %s, which names another segment", message.subject
            )
        except ValueError as error:
            self._logger.warning("dropping a message on %s: %s", message.subject, error)
        return None

    async def _keep_all(self, valid: Sequence[tuple[Msg, object]]) -> None:
        messages, contents = zip(*valid, strict=True)
        backoff = 0.1
        while True:
            try:
                with PROGRESS.step(self._name):
                    await asyncio.to_thread(self._keep, contents)
            except UNREACHABLE:
                self._logger.exception("cannot keep %d messages yet; retrying", len(valid))
                for each in messages:
                    await each.in_progress()
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, MAX_BACKOFF_SECONDS)
            except Exception:
                self._logger.exception("cannot keep %d messages", len(valid))
                if len(valid) == 1:
                    await self._postpone(messages[0])
                else:
                    for each in valid:
                        await self._keep_all([each])
                return
            else:
                for each in messages:
                    await each.ack()
                return

    async def _postpone(self, message: Msg) -> None:
        """Let NATS deliver a message that failed alone again, or drop it."""
        deliveries = message.metadata.num_delivered
        gives_up = deliveries >= MAX_DELIVERIES
        what = "dropped" if gives_up else "redelivered later"
        self._logger.error("a message on %s failed and is %s", message.subject, what)
        if gives_up:
            await message.term()
        else:
            await message.nak(delay=min(2.0**deliveries, MAX_REDELIVERY_SECONDS))


def names_subject(subject: str, content: object) -> bool:
    """Return True if a message is for the segment in its subject, `<kind>.<account>.<job>.<n>`."""
    if not isinstance(content, dict):
        return False
    named = [str(content.get(name)) for name in ("account_id", "job_id", "segment")]
    return subject.split(".")[1:] == named


def _is_gapless(position: int, envelopes: Sequence[Envelope]) -> bool:
    """Return True if the first event follows the position, and each other event its predecessor."""
    for envelope in envelopes:
        if envelope.prev_id != position:
            return False
        position = envelope.id
    return True


def _published(envelope: Envelope) -> Recorded:
    """Return the domain event in an envelope. It is decoded on first use."""
    return Recorded(envelope.id, envelope.topic, envelope.originator_id, lambda: envelope.event)


def recorded(log: EventLog, notification: Notification) -> Recorded:
    """Return the domain event in a notification. It is decoded on first use."""

    def decode() -> Event:
        event = log.mapper.to_domain_event(notification)
        assert isinstance(event, Event)
        return event

    assert isinstance(notification.originator_id, UUID)
    return Recorded(notification.id, notification.topic, notification.originator_id, decode)
