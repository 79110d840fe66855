"""Batches of messages, each of which the server stores as a whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import time_ns
from typing import Any
from uuid import uuid4

from eventsourcing.persistence import Notification
from nats.js.api import Header

from infrastructure.bus.streams import EVENTS, Envelope, event_content, event_subject
from infrastructure.postgres.primary import Timeline

ID_HEADER, LOG_HEADER = "Ecolink-Notification-Id", "Ecolink-Log"
TIMELINE_HEADER = "Ecolink-Timeline"
"""Header with the timeline of the server from which an event was read."""

BATCH_ID, BATCH_SEQUENCE, BATCH_COMMIT = "Nats-Batch-Id", "Nats-Batch-Sequence", "Nats-Batch-Commit"
"""Headers of NATS's atomic batches (ADR-50), which nats-py has no names for."""


@dataclass(frozen=True)
class Tail:
    """The end of the stream: its last sequence number, and its last event, if any."""

    sequence: int
    last: Envelope | None


@dataclass(frozen=True)
class Message:
    """One event, as published."""

    subject: str
    content: bytes
    headers: dict[str, str]


@dataclass(frozen=True)
class BatchedEvent:
    """An event of a batch, with its parsed state."""

    notification: Notification
    prev_id: int
    state: dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """Consecutive events of the log, the first of which follows the stream's end `after`."""

    events: Sequence[BatchedEvent]
    after: Tail
    log_id: str
    timeline: Timeline | None = None
    id: str = field(default_factory=lambda: uuid4().hex)
    started_ns: int = field(default_factory=time_ns)

    @classmethod
    def of(
        cls,
        notifications: Sequence[Notification],
        after: Tail,
        log_id: str,
        timeline: Timeline | None = None,
    ) -> Batch:
        """Return the batch of some notifications, at least one."""
        events: list[BatchedEvent] = []
        prev_id = 0 if after.last is None else after.last.id
        for each in notifications:
            events.append(BatchedEvent(each, prev_id, json.loads(each.state)))
            prev_id = each.id
        return cls(events, after, log_id, timeline)

    @property
    def tail(self) -> Tail:
        """End of the stream after the server has stored the batch."""
        last = self.events[-1]
        envelope = Envelope.of(last.notification, last.prev_id)
        return Tail(self.after.sequence + len(self.events), envelope)

    def messages(self) -> Iterator[Message]:
        """Yield the messages in order.

        The first states the expected last sequence of the stream. The last commits the batch. A
        batch of one message is an ordinary message, which the server stores faster.
        """
        count = len(self.events)
        for number, event in enumerate(self.events, start=1):
            notification = event.notification
            headers = {
                Header.MSG_ID.value: str(notification.id),
                Header.EXPECTED_STREAM.value: EVENTS,
                ID_HEADER: str(notification.id),
                LOG_HEADER: self.log_id,
                "content-type": "application/json",
            }
            if self.timeline is not None:
                headers[TIMELINE_HEADER] = str(self.timeline)
            if (traceparent := event.state.get("traceparent")) is not None:
                headers["traceparent"] = traceparent
            if number == 1:
                headers[Header.EXPECTED_LAST_SEQUENCE.value] = str(self.after.sequence)
            if count > 1:
                headers |= {BATCH_ID: self.id, BATCH_SEQUENCE: str(number)}
                if number == count:
                    headers[BATCH_COMMIT] = "1"
            yield Message(
                event_subject(notification.topic, str(notification.originator_id), event.state),
                event_content(notification, event.prev_id),
                headers,
            )
