"""The publisher keeps the stream a gapless, ordered copy of the log."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from eventsourcing.persistence import Notification
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig

from domain.core.event_log import EventLog
from infrastructure.bus import EVENTS, Envelope, provision, stream_config
from services.relay.publisher import Publisher
from tests.logs import envelopes, grow, has_holes, ids, leave_hole
from tests.polling import eventually_async

pytestmark = pytest.mark.usefixtures("unseeded")


@pytest.fixture(autouse=True)
async def streams(js: JetStreamContext) -> None:
    """The streams, with a short deduplication window."""
    await provision(js, ())
    await js.update_stream(stream_config(EVENTS).evolve(duplicate_window=0.1))


LOG_ID = UUID(int=15)


def publisher_of(log: EventLog, js: JetStreamContext) -> Publisher:
    return Publisher(log, js, LOG_ID)


async def contents(js: JetStreamContext) -> list[Envelope]:
    """All messages of the stream in order."""
    count = (await js.stream_info(EVENTS)).state.messages
    subscription = await js.subscribe(
        "events.>", stream=EVENTS, config=ConsumerConfig(ack_policy=AckPolicy.NONE)
    )
    messages = [await subscription.next_msg(timeout=60) for _ in range(count)]
    await subscription.unsubscribe()
    return [Envelope.model_validate_json(message.data) for message in messages]


async def filled(publisher: Publisher, js: JetStreamContext, log: EventLog) -> bool:
    """Publish once. Returns True if the stream has the whole log."""
    await publisher.publish_new()
    return (await js.stream_info(EVENTS)).state.messages == len(ids(log))


async def test_the_stream_equals_the_log_with_previous_ids(
    log: EventLog, js: JetStreamContext
) -> None:
    grow(log, 3)
    leave_hole(log)
    grow(log, 2)
    leave_hole(log)
    grow(log, 1)
    assert has_holes(ids(log))
    assert await publisher_of(log, js).publish_new() == len(ids(log))
    assert await contents(js) == envelopes(log)


async def test_more_events_than_a_batch_come_in_order(log: EventLog, js: JetStreamContext) -> None:
    grow(log, 1200)
    assert await publisher_of(log, js).publish_new() == 1200
    assert await contents(js) == envelopes(log)


async def test_nothing_is_published_without_new_events(log: EventLog, js: JetStreamContext) -> None:
    grow(log, 3)
    publisher = publisher_of(log, js)
    await publisher.publish_new()
    assert await publisher.publish_new() == 0


async def test_another_relay_continues_at_the_streams_end(
    log: EventLog, js: JetStreamContext
) -> None:
    grow(log, 3)
    await publisher_of(log, js).publish_new()
    grow(log, 2)
    assert await publisher_of(log, js).publish_new() == 2
    assert await contents(js) == envelopes(log)


async def test_two_relays_publish_each_event_once(log: EventLog, js: JetStreamContext) -> None:
    grow(log, 1500)
    pair = publisher_of(log, js), publisher_of(log, js)

    async def both() -> bool:
        await asyncio.gather(*(filled(publisher, js, log) for publisher in pair))
        return (await js.stream_info(EVENTS)).state.messages >= 1500

    await eventually_async(both)
    assert await contents(js) == envelopes(log)


class HeldLog:
    """A log that blocks its reader before the answer."""

    def __init__(self, log: EventLog) -> None:
        self.recorder = self
        self.log = log
        self.read, self.go = threading.Event(), threading.Event()

    def select_notifications(self, **options: Any) -> Sequence[Notification]:
        found = self.log.recorder.select_notifications(**options)
        self.read.set()
        assert self.go.wait(60)
        return found


async def test_a_lagging_relay_is_rejected(log: EventLog, js: JetStreamContext) -> None:
    grow(log, 5)
    held = HeldLog(log)
    late = asyncio.create_task(publisher_of(held, js).publish_new())  # type: ignore[arg-type]
    assert await asyncio.to_thread(held.read.wait, 60)
    for envelope in envelopes(log):  # another relay did this, longer ago than duplicates are known
        await js.publish(envelope.subject, envelope.model_dump_json().encode())
    held.go.set()
    assert await late == 0
    assert await contents(js) == envelopes(log)


async def test_a_lost_tail_is_published_again(log: EventLog, js: JetStreamContext) -> None:
    grow(log, 6)
    publisher = publisher_of(log, js)
    await publisher.publish_new()
    for sequence in (5, 6):
        await js.delete_msg(EVENTS, sequence)
    await eventually_async(lambda: filled(publisher, js, log))
    assert await contents(js) == envelopes(log)


async def test_a_purged_stream_is_filled_again(log: EventLog, js: JetStreamContext) -> None:
    grow(log, 6)
    publisher = publisher_of(log, js)
    await publisher.publish_new()
    await js.purge_stream(EVENTS)
    grow(log, 2)
    await eventually_async(lambda: filled(publisher, js, log))
    assert await contents(js) == envelopes(log)


async def test_a_deleted_stream_is_filled_again(log: EventLog, js: JetStreamContext) -> None:
    grow(log, 6)
    publisher = publisher_of(log, js)
    await publisher.publish_new()
    await js.delete_stream(EVENTS)
    assert await publisher.publish_new() == 0, "there is nowhere to publish to"
    await provision(js, ())
    assert await publisher.publish_new() == 6
    assert await contents(js) == envelopes(log)
