"""The ordered consumer on real PostgreSQL and JetStream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from uuid import UUID

import psycopg
import pytest
from faststream.nats import NatsBroker
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.js import JetStreamContext
from psycopg_pool import ConnectionPool

from deploy.database_roles import OPERATOR_ROLE
from domain import AGGREGATES
from domain.core.aggregate import Event
from domain.core.event_log import EventLog
from infrastructure.bus import consumer as consumer_module
from infrastructure.bus import streams as bus_module
from infrastructure.bus.consumer import (
    BATCH_EVENTS,
    Effect,
    OrderedConsumer,
    Recorded,
    subscribe_batches,
)
from infrastructure.bus.service import broker_of
from infrastructure.bus.streams import EVENTS, REPORTS, Durable, Envelope, provision
from infrastructure.postgres.store import Connection
from infrastructure.settings import Settings
from projections.projection import Cursor, Projection, ProjectionEffect, one_by_one
from services.relay.publisher import Publisher
from tests.logs import envelopes, grow, ids, leave_hole
from tests.polling import eventually, eventually_async

SEEN_DDL = "CREATE TABLE seen (n bigserial PRIMARY KEY, event_id text NOT NULL)"


def _see(cursor: Cursor, event: Event) -> None:
    cursor.execute("INSERT INTO seen (event_id) VALUES (%s)", [event.event_id])


SEEN = Projection("seen", ("seen",), SEEN_DDL, AGGREGATES, one_by_one(_see))


class Bus:
    """A log, its stream, and a consumer that inserts every event into a table."""

    def __init__(
        self,
        settings: Settings,
        log: EventLog,
        nats: Client,
        pool: ConnectionPool[Connection],
    ) -> None:
        self._settings, self.log, self._nats, self._pool = settings, log, nats, pool
        self.js = nats.jetstream()
        self.consumer = OrderedConsumer(ProjectionEffect(SEEN, pool.connection), log)

    @asynccontextmanager
    async def consuming(self) -> AsyncIterator[NatsBroker]:
        """Run the consumer on a broker. After the block, all messages are acknowledged."""
        await self.provision()
        broker = broker_of(self._settings, "test")
        self.consumer.subscribe(broker)
        await broker.start()
        try:
            yield broker
            await self.caught_up()
            await eventually_async(lambda: nothing_left(self.js, self.consumer.durable))
        finally:
            await broker.stop()

    async def provision(self) -> None:
        await provision(self.js, (self.consumer.durable,))

    async def publish(self, events: int) -> None:
        """Append events to the log and publish them."""
        grow(self.log, events)
        await Publisher(self.log, self._nats, UUID(int=15)).publish_new()

    async def caught_up(self) -> None:
        """Wait until the effect of the log's last event is committed."""
        last, effect = ids(self.log)[-1], self.consumer.effect
        await asyncio.to_thread(eventually, lambda: effect.position() == last)

    def assert_all_seen_once(self) -> None:
        with self._pool.connection() as connection:
            rows = connection.execute("SELECT event_id FROM seen ORDER BY n").fetchall()
        seen = [row["event_id"] for row in rows]
        assert seen == [envelope.event_id for envelope in envelopes(self.log)]


@pytest.fixture
def bus(settings: Settings, log: EventLog, nats: Client, pool: ConnectionPool[Connection]) -> Bus:
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url) as owner:
        owner.execute(SEEN_DDL)
        owner.execute(f"GRANT ALL ON seen, seen_n_seq TO {OPERATOR_ROLE}".encode())
    return Bus(settings, log, nats, pool)


@pytest.mark.full
async def test_thousands_of_events_arrive_once_and_in_order(bus: Bus) -> None:
    async with bus.consuming():
        for _ in range(3):
            await bus.publish(1000)
            leave_hole(bus.log)
        await bus.publish(1)
    bus.assert_all_seen_once()


async def test_an_idle_consumer_sends_few_requests(bus: Bus) -> None:
    async with bus.consuming() as broker:
        client = await broker.connect()
        before = client.stats["out_msgs"]
        await asyncio.sleep(1)
        assert client.stats["out_msgs"] - before < 5  # FastStream alone sends twenty
        await bus.publish(100)
    info = await bus.js.consumer_info(EVENTS, bus.consumer.durable.name)
    assert info.delivered is not None
    assert info.delivered.consumer_seq == info.delivered.stream_seq  # each is delivered once


async def test_a_redelivery_of_everything_changes_nothing(bus: Bus) -> None:
    async with bus.consuming():
        await bus.publish(20)
        await bus.caught_up()
        await bus.js.delete_consumer(EVENTS, bus.consumer.durable.name)
        await bus.provision()
        await bus.publish(5)
    bus.assert_all_seen_once()


async def test_a_recreated_consumer_continues_after_its_acknowledgements(bus: Bus) -> None:
    durable = bus.consumer.durable
    await provision(bus.js, (replace(durable, acknowledges_all=False),))
    await bus.publish(2000)
    earlier = await bus.js.pull_subscribe_bind(durable.name, EVENTS)
    while not await nothing_left(bus.js, durable):
        for message in await earlier.fetch(500, timeout=60):
            await message.ack_sync()
    await earlier.unsubscribe()
    assert await provision(bus.js, (durable,)) == [f"consumer {durable.name} recreated"]
    assert await provision(bus.js, (durable,)) == []
    await bus.publish(1)
    recreated = await bus.js.pull_subscribe_bind(durable.name, EVENTS)
    (message,) = await recreated.fetch(1, timeout=60)
    assert Envelope.model_validate_json(message.data).id == ids(bus.log)[-1]
    await message.ack()


async def test_new_events_do_not_wait_for_messages_that_are_already_applied(bus: Bus) -> None:
    await bus.provision()
    await bus.publish(1500)
    bus.consumer.catch_up()
    grow(bus.log, 1)  # the stream does not have it
    async with bus.consuming():
        pass  # returns when the new event is applied
    bus.assert_all_seen_once()


async def test_missing_events_are_read_from_the_log(bus: Bus) -> None:
    grow(bus.log, 10)
    last = envelopes(bus.log)[-1]
    async with bus.consuming():
        await bus.js.publish(last.subject, last.model_dump_json().encode())
    bus.assert_all_seen_once()


async def test_a_refilled_stream_changes_nothing(bus: Bus) -> None:
    async with bus.consuming():
        await bus.publish(30)
        await bus.caught_up()
        await bus.js.delete_stream(EVENTS)
        await bus.provision()
        await bus.publish(10)
    bus.assert_all_seen_once()


async def test_a_crash_between_commit_and_acknowledgement_changes_nothing(bus: Bus) -> None:
    await bus.provision()
    await bus.publish(8)
    crashing = await bus.js.pull_subscribe_bind(bus.consumer.durable.name, EVENTS)
    messages = await crashing.fetch(5)
    bus.consumer.consume([Envelope.model_validate_json(message.data) for message in messages])
    for message in messages:  # the server redelivers them, as after a crash
        await message.nak()
    await crashing.unsubscribe()
    async with bus.consuming():
        pass
    bus.assert_all_seen_once()


class Faltering:
    """An effect whose first commits fail."""

    name = "faltering"

    def __init__(self, effect: Effect, failures: int) -> None:
        self._effect = effect
        self.failures = failures

    def position(self) -> int:
        return self._effect.position()

    def apply(self, batch: Sequence[Recorded]) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the database is unreachable")
        self._effect.apply(batch)


async def test_a_batch_is_retried_until_it_is_committed(bus: Bus) -> None:
    bus.consumer = OrderedConsumer(Faltering(bus.consumer.effect, failures=2), bus.log)
    async with bus.consuming():
        await bus.publish(5)
    bus.assert_all_seen_once()


class InMemory:
    """An effect that only records ids."""

    name = "in_memory"

    def __init__(self) -> None:
        self.ids: list[int] = []

    def position(self) -> int:
        return self.ids[-1] if self.ids else 0

    def apply(self, batch: Sequence[Recorded]) -> None:
        self.ids += [item.id for item in batch]


def test_a_batch_without_new_events_advances_by_one_batch_of_the_log(log: EventLog) -> None:
    grow(log, 2 * BATCH_EVENTS)
    consumer = OrderedConsumer(effect := InMemory(), log)
    stream, whole = envelopes(log), ids(log)
    consumer.consume(stream[:3])
    consumer.consume(stream[:3])
    assert effect.ids == whole[: 3 + BATCH_EVENTS]


class Growing(InMemory):
    """An effect during which the log grows by one event, up to ten times."""

    def __init__(self, log: EventLog) -> None:
        super().__init__()
        self._log, self.calls = log, 0

    def apply(self, batch: Sequence[Recorded]) -> None:
        super().apply(batch)
        self.calls += 1
        if self.calls <= 10:
            grow(self._log, 1)


async def test_a_consumer_has_begun_although_the_log_grows(log: EventLog) -> None:
    grow(log, 3)
    effect = Growing(log)
    await OrderedConsumer(effect, log).begin()
    assert effect.calls == 1


def test_a_consumer_catches_up_although_the_log_grows(log: EventLog) -> None:
    grow(log, 3)
    whole, effect = ids(log), Growing(log)
    OrderedConsumer(effect, log).catch_up()
    assert effect.ids == whole


@hypothesis_settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(batches=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), max_size=6))
def test_any_delivery_applies_the_log(log: EventLog, batches: list[list[int]]) -> None:
    """Batches with gaps, repetitions and inversions, as after redelivery."""
    if not ids(log):
        grow(log, 4)
        leave_hole(log)
        grow(log, 5)
    stream, whole = envelopes(log), ids(log)
    effect = InMemory()
    consumer = OrderedConsumer(effect, log)
    for batch in batches:
        consumer.consume([stream[index] for index in batch])
        assert effect.ids == whole[: len(effect.ids)]
        assert effect.position() >= max(stream[index].id for index in batch)
    consumer.catch_up()
    assert effect.ids == whole


async def test_a_message_of_another_segment_is_dropped(
    settings: Settings, js: JetStreamContext, caplog: pytest.LogCaptureFixture
) -> None:
    """NATS restricts a trainer's subjects, so the subject identifies the sender."""
    durable = Durable("reader", REPORTS, "reports.>")
    await provision(js, (durable,))
    broker, kept = broker_of(settings, "test"), list[object]()
    subscribe_batches(broker, durable, kept.extend)
    own = {"account_id": "a", "job_id": "j", "segment": 1, "outcome": "failed"}
    messages = [
        own | {"account_id": "b"},
        own | {"job_id": "k"},
        own | {"segment": 2},
        own | {"segment": "1.0"},
        {"job_id": "j"},
        ["a", "j", 1],
        "reports.a.j.1",
        own,
    ]
    for each in messages:
        await js.publish("reports.a.j.1", json.dumps(each).encode())
    await js.publish("reports.a.j.1", b"\xff not JSON")
    await broker.start()
    try:
        await eventually_async(partial(nothing_left, js, durable))
    finally:
        await broker.stop()
    assert kept == [own]
    assert ("reports.a.j.1",) in [record.args for record in caplog.records]


@asynccontextmanager
async def receiving(
    settings: Settings, js: JetStreamContext, keep: Callable[[Sequence[object]], None]
) -> AsyncIterator[Durable]:
    """Consume three reports on one subject, whose `n` is 1 to 3."""
    durable = Durable("reader", REPORTS, "reports.>")
    await provision(js, (durable,))
    for n in (1, 2, 3):
        await js.publish("reports.a.j.1", json.dumps(report(n)).encode())
    broker = broker_of(settings, "test")
    subscribe_batches(broker, durable, keep)
    await broker.start()
    try:
        yield durable
    finally:
        await broker.stop()


def report(n: int) -> dict[str, object]:
    return {"account_id": "a", "job_id": "j", "segment": 1, "n": n}


async def test_messages_outlast_any_outage_of_the_database(
    settings: Settings, js: JetStreamContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More attempts fail than there are deliveries, and each message was delivered once."""
    monkeypatch.setattr(bus_module, "MAX_DELIVERIES", 2)
    monkeypatch.setattr(consumer_module, "MAX_DELIVERIES", 2)
    monkeypatch.setattr(consumer_module, "MAX_BACKOFF_SECONDS", 0.1)
    kept, attempts = list[object](), list[int]()

    def keep(messages: Sequence[object]) -> None:
        attempts.append(len(messages))
        if len(attempts) < 8:
            raise psycopg.OperationalError("the connection is lost")
        kept.extend(messages)

    async with receiving(settings, js, keep) as durable:
        await eventually_async(partial(nothing_left, js, durable))
        delivered = (await js.consumer_info(REPORTS, durable.name)).delivered
    assert kept == [report(n) for n in (1, 2, 3)]
    assert delivered is not None
    assert delivered.consumer_seq == 3


async def test_a_message_that_always_fails_delays_no_other_and_is_given_up(
    settings: Settings, js: JetStreamContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "MAX_DELIVERIES", 3)
    monkeypatch.setattr(consumer_module, "MAX_DELIVERIES", 3)
    monkeypatch.setattr(consumer_module, "MAX_REDELIVERY_SECONDS", 0.1)
    kept, refused = list[object](), list[int]()

    def keep(messages: Sequence[object]) -> None:
        if report(2) in messages:
            refused.append(len(messages))
            raise RecursionError
        kept.extend(messages)

    async with receiving(settings, js, keep) as durable:
        await eventually_async(partial(nothing_left, js, durable))
    assert kept == [report(1), report(3)]
    assert refused.count(1) == 3


async def nothing_left(js: JetStreamContext, durable: Durable) -> bool:
    info = await js.consumer_info(durable.stream, durable.name)
    return info.num_pending == 0 and info.num_ack_pending == 0
