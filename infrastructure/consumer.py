"""The ordered, exactly-once consumer: the one loop behind every projection and every reaction.

It takes the whole event stream in batches, in order. Its position is the notification id of the
last event whose effect is committed, and it is committed together with the effect, so that any
redelivery, restart or new stream is only a repetition that changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

from eventsourcing.persistence import Notification
from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub
from nats.aio.msg import Msg

from domain.core.aggregate import Event
from domain.core.event_log import EventLog
from infrastructure.bus import EVENTS, Durable, Envelope
from infrastructure.log_identity import notification_at
from infrastructure.progress import PROGRESS

BATCH_EVENTS = 500

BATCH_SECONDS = 0.1
"""How long a batch is collected after its first message."""

PROMPT_BATCH_SECONDS = 0.02
"""The same of reactions: a job passes four of them before it starts."""

MAX_BACKOFF_SECONDS = 5.0

STANDSTILL_SECONDS = 30.0
"""From when on the log says loudly that a consumer cannot go on; short outages are none."""


@dataclass(frozen=True)
class Recorded:
    """A domain event at its place in the log."""

    id: int
    event: Event


class Effect(Protocol):
    """What a consumer does with events, and how far it has got."""

    name: str

    def position(self) -> int:
        """Notification id of the last event whose effect is committed; 0 before the first."""
        ...

    def apply(self, batch: Sequence[Recorded]) -> None:
        """Commit the effect of some events in order, each with its position."""
        ...


class UnknownPosition(Exception):
    """A consumer's position is no event of the log."""


class OrderedConsumer:
    """Feeds one effect from the stream, and from the log where the stream has less."""

    def __init__(self, effect: Effect, log: EventLog, batch_seconds: float = BATCH_SECONDS) -> None:
        self.effect, self._batch_seconds = effect, batch_seconds
        self.durable = Durable(effect.name, EVENTS, "events.>")
        self._log = log
        self._logger = logging.getLogger(f"consumer.{effect.name}")

    def subscribe(self, broker: NatsBroker) -> None:
        """Consume from the bus once the broker starts."""
        subscriber = broker.subscriber(
            self.durable.filter_subject,
            stream=JStream(EVENTS, declare=False),
            durable=self.durable.name,
            config=self.durable.config,
            pull_sub=PullSub(batch_size=BATCH_EVENTS, timeout=self._batch_seconds, batch=True),
            ack_policy=AckPolicy.MANUAL,
        )

        @subscriber
        async def consume(envelopes: list[Envelope], message: NatsMessage) -> None:
            batch = f"batch {envelopes[0].id}..{envelopes[-1].id}"
            await self._until_done(partial(self.consume, envelopes), batch)
            await message.ack()

    async def begin(self) -> None:
        """Apply what the log has and no message brings: rows that were dropped are folded anew.

        Their messages were acknowledged long ago. May run beside `subscribe`, for an effect that
        skips what it has.
        """
        await self._until_done(self.catch_up, "the log")

    async def _until_done(self, step: Callable[[], object], what: str) -> None:
        """Try until a step is done: an ordered consumer has nothing else to do."""
        backoff, since = 0.1, time.monotonic()
        while True:
            try:
                with PROGRESS.step(self.effect.name):
                    await asyncio.to_thread(step)
                return
            except Exception:
                seconds = time.monotonic() - since
                standstill = seconds > STANDSTILL_SECONDS
                self._logger.log(
                    logging.CRITICAL if standstill else logging.ERROR,
                    "STANDS STILL for %.0f s: %s" if standstill else "trying again for %.0f s: %s",
                    *(seconds, what),
                    exc_info=True,
                )
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, MAX_BACKOFF_SECONDS)

    def consume(self, envelopes: Sequence[Envelope]) -> None:
        """Apply a batch of the stream, or of the log where the stream differs from it.

        A batch may mix messages that are redelivered with new ones, in any order. After a restore
        of the database the stream may have events that the log lacks. The relay appends only to a
        stream whose end is in the log, so that a batch is of the log if its last event is.
        """
        position = self._position()
        fresh = {envelope.id: envelope for envelope in envelopes if envelope.id > position}
        if not fresh:
            return
        ordered = [fresh[id] for id in sorted(fresh)]
        last = ordered[-1]
        if not last.wraps(notification_at(self._log, last.id)):
            self._logger.error(
                "the stream has event %d (%s), which the log lacks; reading the log instead",
                *(last.id, last.topic),
            )
            self.catch_up(stop=last.id)
        elif _is_gapless(position, ordered):
            self._apply([envelope.notification for envelope in ordered])
        else:
            self.catch_up(stop=last.id)

    def catch_up(self, stop: int | None = None) -> int:
        """Apply the log from the position on, up to `stop` or its end; returns how many."""
        applied, position = 0, self._position()
        while batch := self._log.recorder.select_notifications(
            start=position, stop=stop, limit=BATCH_EVENTS, inclusive_of_start=False
        ):
            self._apply(batch)
            applied, position = applied + len(batch), batch[-1].id
        return applied

    def _position(self) -> int:
        """The effect's position. Raises UnknownPosition if the log has no such event."""
        position = self.effect.position()
        if position > 0 and notification_at(self._log, position) is None:
            raise UnknownPosition(
                f"{self.effect.name} has seen event {position}, which the log lacks: its rows are "
                "of another state of the log. Restore the whole database from one backup."
            )
        return position

    def _apply(self, notifications: Sequence[Notification]) -> None:
        self.effect.apply([recorded(self._log, notification) for notification in notifications])


def subscribe_batches(
    broker: NatsBroker, durable: Durable, keep: Callable[[Sequence[object]], None]
) -> None:
    """Consume a stream that is not the event log: reports and measurements.

    `keep` runs in a thread and must be idempotent; a batch that it cannot keep comes again, so it
    has to drop by itself what it can never keep. It gets only what names the segment of its
    subject: NATS lets a trainer publish on its own segment's subjects, whatever a message says.
    """
    logger = logging.getLogger(f"consumer.{durable.name}")

    @broker.subscriber(
        durable.filter_subject,
        stream=JStream(durable.stream, declare=False),
        durable=durable.name,
        config=durable.config,
        pull_sub=PullSub(batch_size=BATCH_EVENTS, timeout=BATCH_SECONDS, batch=True),
        ack_policy=AckPolicy.MANUAL,
    )
    async def consume(messages: list[Any], message: NatsMessage) -> None:
        subjects = [raw.subject for raw in cast("list[Msg]", message.raw_message)]
        own = []
        for subject, content in zip(subjects, messages, strict=True):
            if names_subject(subject, content):
                own.append(content)
            else:
                logger.warning("dropping a message on %s that names another segment", subject)
        try:
            with PROGRESS.step(durable.name):
                await asyncio.to_thread(keep, own)
        except Exception:
            logger.exception("a batch of %s comes again", len(messages))
            await message.nack(delay=1)
        else:
            await message.ack()


def names_subject(subject: str, content: object) -> bool:
    """Return True if a message names the segment of its subject, `<kind>.<account>.<job>.<n>`."""
    if not isinstance(content, dict):
        return False
    named = [str(content.get(name)) for name in ("account_id", "job_id", "segment")]
    return subject.split(".")[1:] == named


def _is_gapless(position: int, envelopes: Sequence[Envelope]) -> bool:
    """Whether each event follows the one before it in the log, the first one the position."""
    for envelope in envelopes:
        if envelope.prev_id != position:
            return False
        position = envelope.id
    return True


def recorded(log: EventLog, notification: Notification) -> Recorded:
    """The domain event that a notification holds."""
    event = log.mapper.to_domain_event(notification)
    assert isinstance(event, Event)
    return Recorded(notification.id, event)
