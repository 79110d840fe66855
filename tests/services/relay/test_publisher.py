"""The publisher keeps the stream a gapless, ordered copy of the log."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from eventsourcing.persistence import Notification
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig

from domain.access.role import Role
from domain.billing.account import Account
from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from infrastructure.bus import EVENTS, Envelope, provision
from services.relay.publisher import Publisher
from tests.builders.commands import NOW
from tests.builders.traces import Collector
from tests.logs import envelopes, grow, has_holes, ids, leave_hole
from tests.polling import eventually_async

pytestmark = pytest.mark.usefixtures("unseeded", "streams")


LOG_ID = UUID(int=15)


def publisher_of(log: EventLog, js: JetStreamContext) -> Publisher:
    return Publisher(log, js, LOG_ID)


async def contents(js: JetStreamContext) -> list[Envelope]:
    """Return all messages of the stream in order."""
    count = (await js.stream_info(EVENTS)).state.messages
    subscription = await js.subscribe(
        "events.>", stream=EVENTS, config=ConsumerConfig(ack_policy=AckPolicy.NONE)
    )
    messages = [await subscription.next_msg(timeout=60) for _ in range(count)]
    await subscription.unsubscribe()
    return [Envelope.model_validate_json(message.data) for message in messages]


async def filled(publisher: Publisher, js: JetStreamContext, log: EventLog) -> bool:
    """Publish once. Return True if the stream has the whole log."""
    await publisher.publish_new()
    return (await js.stream_info(EVENTS)).state.messages == len(ids(log))


async def test_the_stream_equals_the_log_with_previous_ids(
    log: EventLog, js: JetStreamContext
) -> None:
    grow(log, 1200)  # more than a batch
    leave_hole(log)
    grow(log, 2)
    leave_hole(log)
    grow(log, 1)
    assert has_holes(ids(log))
    assert await publisher_of(log, js).publish_new() == len(ids(log))
    assert await contents(js) == envelopes(log)


async def test_only_new_events_are_published_by_any_relay(
    log: EventLog, js: JetStreamContext
) -> None:
    grow(log, 3)
    publisher = publisher_of(log, js)
    await publisher.publish_new()
    assert await publisher.publish_new() == 0
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
    """A log whose reads return only when a test allows it."""

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


async def delete_tail(js: JetStreamContext) -> None:
    for sequence in (5, 6):
        await js.delete_msg(EVENTS, sequence)


async def purge(js: JetStreamContext) -> None:
    await js.purge_stream(EVENTS)


@pytest.mark.parametrize("lose", [delete_tail, purge])
async def test_lost_messages_are_published_again(
    log: EventLog, js: JetStreamContext, lose: Callable[[JetStreamContext], Awaitable[None]]
) -> None:
    grow(log, 6)
    publisher = publisher_of(log, js)
    await publisher.publish_new()
    await lose(js)
    grow(log, 2)
    await eventually_async(lambda: filled(publisher, js, log))
    assert await contents(js) == envelopes(log)


async def test_a_deleted_stream_is_filled_again(log: EventLog, js: JetStreamContext) -> None:
    grow(log, 6)
    publisher = publisher_of(log, js)
    await publisher.publish_new()
    await js.delete_stream(EVENTS)
    assert await publisher.publish_new() == 0
    await provision(js, ())
    assert await publisher.publish_new() == 6
    assert await contents(js) == envelopes(log)


async def test_the_message_of_a_traced_event_has_its_span(
    log: EventLog, js: JetStreamContext, collector: Collector
) -> None:
    grow(log, 1)
    span = f"00-{'a' * 32}-{'b' * 16}-01"
    with because(Cause("account:test", "command-2", NOW, traceparent=span)):
        log.commit(Account.open(uuid4(), Role.OWNER, "UTC"))
    await publisher_of(log, js).publish_new()
    untraced, traced = [(await js.get_msg(EVENTS, n)).headers or {} for n in (1, 2)]
    assert "traceparent" not in untraced
    assert traced["traceparent"] == span
    assert collector.names == ["publish AccountOpened"]
