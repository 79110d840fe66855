"""The publisher keeps the stream a gapless, ordered copy of the log."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from eventsourcing.persistence import Notification
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, StreamInfo

from domain.access.role import Role
from domain.billing.account import Account
from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from infrastructure.bus.streams import EVENTS, STREAMS, Envelope, provision
from services.relay.publisher import OldServer, Publisher
from tests.builders.commands import NOW
from tests.builders.traces import Collector
from tests.logs import envelopes, grow, has_holes, ids, leave_hole
from tests.polling import eventually_async

pytestmark = pytest.mark.usefixtures("unseeded", "streams")


LOG_ID = UUID(int=15)


def publisher_of(log: EventLog, nats: Client) -> Publisher:
    return Publisher(log, nats, LOG_ID)


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
    log: EventLog, nats: Client, js: JetStreamContext
) -> None:
    grow(log, 1200)  # more than a batch
    leave_hole(log)
    grow(log, 2)
    leave_hole(log)
    grow(log, 1)
    assert has_holes(ids(log))
    assert await publisher_of(log, nats).publish_new() == len(ids(log))
    assert await contents(js) == envelopes(log)


async def test_only_new_events_are_published_by_any_relay(
    log: EventLog, nats: Client, js: JetStreamContext
) -> None:
    grow(log, 3)
    publisher = publisher_of(log, nats)
    await publisher.publish_new()
    assert await publisher.publish_new() == 0
    grow(log, 2)
    assert await publisher_of(log, nats).publish_new() == 2
    assert await contents(js) == envelopes(log)


async def test_two_relays_publish_each_event_once(
    log: EventLog, nats: Client, js: JetStreamContext
) -> None:
    grow(log, 1500)
    pair = publisher_of(log, nats), publisher_of(log, nats)

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


async def test_a_lagging_relay_is_rejected(
    log: EventLog, nats: Client, js: JetStreamContext
) -> None:
    grow(log, 5)
    held = HeldLog(log)
    late = asyncio.create_task(publisher_of(held, nats).publish_new())  # type: ignore[arg-type]
    assert await asyncio.to_thread(held.read.wait, 60)
    for envelope in envelopes(log):  # another relay did this, longer ago than duplicates are known
        await js.publish(envelope.subject, envelope.model_dump_json().encode())
    held.go.set()
    assert await late == 0
    assert await contents(js) == envelopes(log)


class LimitedLog:
    """A log of which a relay reads only the first events."""

    def __init__(self, log: EventLog, events: int) -> None:
        self.recorder = self
        self._log, self._events = log, events

    def select_notifications(self, **options: Any) -> Sequence[Notification]:
        return self._log.recorder.select_notifications(stop=self._events, **options)


class InterruptedLog:
    """A log that calls a function in the event loop, before one of its reads returns."""

    def __init__(
        self, log: EventLog, read: int, interrupt: Callable[[], Awaitable[object]]
    ) -> None:
        self.recorder = self
        self._log, self._interrupt, self._left = log, interrupt, read
        self._loop = asyncio.get_running_loop()

    def select_notifications(self, **options: Any) -> Sequence[Notification]:
        self._left -= 1
        if self._left == 0:
            asyncio.run_coroutine_threadsafe(_done(self._interrupt), self._loop).result(60)
        return self._log.recorder.select_notifications(**options)


async def _done(step: Callable[[], Awaitable[object]]) -> None:
    await step()


async def test_a_second_relay_between_two_batches_rejects_all_later_batches(
    log: EventLog, nats: Client, js: JetStreamContext
) -> None:
    grow(log, 2400)
    second = publisher_of(log, nats)

    async def publish() -> None:
        await eventually_async(lambda: filled(second, js, log))

    interrupted = InterruptedLog(log, 3, publish)
    first = Publisher(interrupted, nats, LOG_ID)  # type: ignore[arg-type]
    assert await first.publish_new() < 2400
    assert await contents(js) == envelopes(log)


async def test_a_stream_that_grows_while_its_end_is_read_gets_no_batch(
    log: EventLog, nats: Client, js: JetStreamContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(log, 2400)
    first, second = publisher_of(log, nats), publisher_of(log, nats)
    await publisher_of(LimitedLog(log, 1000), nats).publish_new()  # type: ignore[arg-type]

    async def older_info(name: str) -> StreamInfo:
        found = await js.stream_info(name)
        await publisher_of(LimitedLog(log, 1500), nats).publish_new()  # type: ignore[arg-type]
        return found

    late = nats.jetstream()
    monkeypatch.setattr(late, "stream_info", older_info)
    monkeypatch.setattr(first, "_js", late)
    assert await first.publish_new() == 0
    await eventually_async(lambda: filled(second, js, log))
    assert await contents(js) == envelopes(log)


@pytest.mark.full
async def test_a_stream_deleted_between_two_batches_is_filled_again(
    log: EventLog, nats: Client, js: JetStreamContext
) -> None:
    grow(log, 2400)

    async def delete() -> None:
        await js.delete_stream(EVENTS)
        await provision(js, ())

    interrupted = InterruptedLog(log, 3, delete)
    publisher = Publisher(interrupted, nats, LOG_ID)  # type: ignore[arg-type]
    assert await publisher.publish_new() < 2400
    await eventually_async(lambda: filled(publisher, js, log))
    assert await contents(js) == envelopes(log)


class LossyClient:
    """A client that loses one of the messages that are not acknowledged."""

    def __init__(self, client: Client, lost: int) -> None:
        self._client, self._left = client, lost

    def jetstream(self, prefix: str) -> JetStreamContext:
        return self._client.jetstream(prefix=prefix)

    async def publish(self, *args: Any, **options: Any) -> None:
        self._left -= 1
        if self._left != 0:
            await self._client.publish(*args, **options)


async def test_a_batch_with_a_lost_message_is_not_stored(
    log: EventLog, nats: Client, js: JetStreamContext
) -> None:
    grow(log, 1700)
    lossy = LossyClient(nats, 700)
    publisher = Publisher(log, lossy, LOG_ID)  # type: ignore[arg-type]
    assert await publisher.publish_new() == 500
    assert await contents(js) == envelopes(log)[:500]
    await eventually_async(lambda: filled(publisher, js, log))
    assert await contents(js) == envelopes(log)


async def test_a_stream_without_batches_stops_the_relay(
    log: EventLog, nats: Client, js: JetStreamContext
) -> None:
    grow(log, 2)
    (declared,) = [config for config in STREAMS if config.name == EVENTS]
    await js.update_stream(declared.evolve(allow_atomic=False))
    with pytest.raises(OldServer):
        await publisher_of(log, nats).publish_new()


async def delete_tail(js: JetStreamContext) -> None:
    for sequence in (5, 6):
        await js.delete_msg(EVENTS, sequence)


async def purge(js: JetStreamContext) -> None:
    await js.purge_stream(EVENTS)


@pytest.mark.parametrize("lose", [delete_tail, purge])
async def test_lost_messages_are_published_again(
    log: EventLog,
    nats: Client,
    js: JetStreamContext,
    lose: Callable[[JetStreamContext], Awaitable[None]],
) -> None:
    grow(log, 6)
    publisher = publisher_of(log, nats)
    await publisher.publish_new()
    await lose(js)
    grow(log, 2)
    await eventually_async(lambda: filled(publisher, js, log))
    assert await contents(js) == envelopes(log)


async def test_a_deleted_stream_is_filled_again(
    log: EventLog, nats: Client, js: JetStreamContext
) -> None:
    grow(log, 6)
    publisher = publisher_of(log, nats)
    await publisher.publish_new()
    await js.delete_stream(EVENTS)
    assert await publisher.publish_new() == 0
    await provision(js, ())
    assert await publisher.publish_new() == 6
    assert await contents(js) == envelopes(log)


async def test_the_message_of_a_traced_event_has_its_span(
    log: EventLog, nats: Client, js: JetStreamContext, collector: Collector
) -> None:
    grow(log, 1)
    span = f"00-{'a' * 32}-{'b' * 16}-01"
    with because(Cause("account:test", "command-2", NOW, traceparent=span)):
        log.commit(Account.open(uuid4(), Role.OWNER, "UTC"))
    await publisher_of(log, nats).publish_new()
    untraced, traced = [(await js.get_msg(EVENTS, n)).headers or {} for n in (1, 2)]
    assert "traceparent" not in untraced
    assert traced["traceparent"] == span
    assert collector.names == ["publish AccountOpened"]
