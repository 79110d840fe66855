"""A restored database with a newer bus: no consumer applies lost events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from uuid import UUID, uuid4

import psycopg
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from psycopg import sql

from domain.access.role import Role
from domain.billing.account import Account
from domain.core.event_log import EventLog
from gateway.events.feed import _after
from infrastructure.bus.consumer import OrderedConsumer, Recorded, UnknownPosition
from infrastructure.bus.service import broker_of
from infrastructure.bus.streams import EVENTS, provision
from infrastructure.postgres.log_identity import (
    LogReplaced,
    LogWatch,
    log_identity,
    notification_at,
)
from infrastructure.postgres.store import connect, open_log, open_pool
from infrastructure.settings import Settings
from projections import ACCOUNTS
from projections.projection import ProjectionEffect
from services.relay.publisher import ForeignStream, Publisher
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID
from tests.logs import envelopes, notifications
from tests.polling import eventually_async
from tests.services.relay.test_publisher import contents

pytestmark = pytest.mark.usefixtures("streams")


class Database:
    """A test database with backup and restore while the servers run."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        assert settings.owner_database_url is not None
        server, _, self._name = settings.owner_database_url.rpartition("/")
        self._server, self._backup = f"{server}/postgres", f"backup_{uuid4().hex}"

    def back_up(self) -> None:
        self._copy(self._name, self._backup)

    def restore(self) -> None:
        """Replace the database with its backup. All clients lose their connections."""
        self._execute("DROP DATABASE {} WITH (FORCE)", self._name)
        self._copy(self._backup, self._name)

    def close(self) -> None:
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", self._backup)

    def _copy(self, source: str, target: str) -> None:
        self._execute("ALTER DATABASE {} ALLOW_CONNECTIONS false", source)
        with psycopg.connect(self._server, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                [source],
            )
        self._execute("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY", target, source)
        self._execute("ALTER DATABASE {} ALLOW_CONNECTIONS true", source)

    def _execute(self, statement: str, *names: str) -> None:
        with psycopg.connect(self._server, autocommit=True) as connection:
            identifiers = map(sql.Identifier, names)
            connection.execute(sql.SQL(statement).format(*identifiers))  # type: ignore[arg-type]


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    found = Database(settings)
    yield found
    found.close()


def credit(log: EventLog, amount_micros: int, times: int = 1) -> None:
    """Append events of one account with different amounts."""
    with command(f"credit {amount_micros}"):
        account = log.find(Account, ACCOUNT_ID) or Account.open(ACCOUNT_ID, Role.OWNER, "UTC")
        for n in range(times):
            account.grant_credit(amount_micros, f"{amount_micros}-{account.version}-{n}")
        log.commit(account)


@contextmanager
def opened(settings: Settings) -> Iterator[tuple[EventLog, UUID]]:
    with open_log(settings) as log, connect(settings) as connection:
        yield log, log_identity(connection)


async def publish(settings: Settings, nats: Client) -> None:
    """Run a new relay until the stream is as long as the log."""
    with opened(settings) as (log, log_id):
        publisher, js = Publisher(log, nats, log_id), nats.jetstream()

        async def filled() -> bool:
            await publisher.publish_new()
            return (await js.stream_info(EVENTS)).state.messages == len(envelopes(log))

        await eventually_async(filled)


async def published(database: Database, nats: Client, phantoms: int) -> None:
    """Two events, a backup, `phantoms` more events, all on the bus; then the restore."""
    with opened(database.settings) as (log, _):
        credit(log, 10, 2)
    database.back_up()
    with opened(database.settings) as (log, _):
        credit(log, 99, phantoms)
    await publish(database.settings, nats)
    database.restore()


@asynccontextmanager
async def consuming(settings: Settings) -> AsyncIterator[OrderedConsumer]:
    """The consumer of a projection, as its service runs it."""
    with opened(settings) as (log, _), open_pool(settings, max_size=2) as pool:
        consumer = OrderedConsumer(ProjectionEffect(ACCOUNTS, pool.connection), log)
        broker = broker_of(settings, "test")
        consumer.subscribe(broker)
        await broker.start()
        try:
            yield consumer
        finally:
            await broker.stop()


def balance(settings: Settings) -> int | None:
    """The account's balance in the read model."""
    with connect(settings) as connection:
        row = connection.execute(
            "SELECT balance_micros FROM accounts WHERE account_id = %s", [ACCOUNT_ID]
        ).fetchone()
    return None if row is None else row["balance_micros"]


NEW_EVENTS: dict[str, Callable[[EventLog], None]] = {
    "nothing": lambda log: None,
    "fewer": lambda log: credit(log, 7),
    "as many of the same versions": lambda log: credit(log, 7, 3),
    "more": lambda log: credit(log, 7, 5),
}


@pytest.mark.full
@pytest.mark.parametrize("appended", NEW_EVENTS.values(), ids=NEW_EVENTS.keys())
async def test_the_relay_refills_the_stream_from_a_restored_log(
    database: Database, nats: Client, js: JetStreamContext, appended: Callable[[EventLog], None]
) -> None:
    await published(database, nats, phantoms=3)
    with opened(database.settings) as (log, _):
        appended(log)
    await publish(database.settings, nats)
    with opened(database.settings) as (log, _):
        assert await contents(js) == envelopes(log)


@pytest.mark.full
@pytest.mark.parametrize("appended", NEW_EVENTS.values(), ids=NEW_EVENTS.keys())
async def test_consumers_ignore_events_that_the_log_lacks(
    database: Database, nats: Client, js: JetStreamContext, appended: Callable[[EventLog], None]
) -> None:
    await published(database, nats, phantoms=3)
    with opened(database.settings) as (log, _):
        appended(log)
        expected = log.load(Account, ACCOUNT_ID).balance_micros
    with open_pool(database.settings, max_size=2) as pool:
        durable = OrderedConsumer(ProjectionEffect(ACCOUNTS, pool.connection), log).durable
    await provision(js, (durable,))
    async with consuming(database.settings):
        await eventually_async(lambda: acknowledged(js, durable.name))
        real = {None, 10, *range(20, expected + 1, 7)}
        assert balance(database.settings) in real, "a phantom was applied"
        await publish(database.settings, nats)
        await eventually_async(lambda: is_balance(database.settings, expected))


async def acknowledged(js: JetStreamContext, name: str) -> bool:
    info = await js.consumer_info(EVENTS, name)
    return info.num_pending == 0 and info.num_ack_pending == 0


async def is_balance(settings: Settings, expected: int) -> bool:
    return await asyncio.to_thread(balance, settings) == expected


async def test_a_stream_of_another_log_stops_the_relay(
    settings: Settings, nats: Client, js: JetStreamContext
) -> None:
    with opened(settings) as (log, _):
        credit(log, 10, 2)
        await Publisher(log, nats, uuid4()).publish_new()
    before = await contents(js)
    with opened(settings) as (log, log_id):
        with pytest.raises(ForeignStream, match="ecolink events empty-stream"):
            await Publisher(log, nats, log_id).publish_new()
    assert await contents(js) == before


async def test_an_invalid_message_is_replaced_from_the_log(
    settings: Settings, nats: Client, js: JetStreamContext
) -> None:
    with opened(settings) as (log, _):
        credit(log, 10, 2)
    await publish(settings, nats)
    await js.publish("events.a.Job.1.x", b"{}")
    await publish(settings, nats)
    with opened(settings) as (log, _):
        assert await contents(js) == envelopes(log)


def test_a_log_that_lost_events_is_detected(database: Database) -> None:
    """Even if the log has grown since, with another event at the same version."""
    settings = database.settings
    with opened(settings) as (log, _):
        credit(log, 10, 2)
    database.back_up()
    with open_log(settings) as log:
        watch = LogWatch(log)
        credit(log, 99, 3)
        watch.check()
        watch.check()
        last = notifications(log)[-1]
        seen = notification_at(log, last.id)
        database.restore()
        with open_log(settings) as restored:
            credit(restored, 7, 5)
        with pytest.raises(LogReplaced):
            watch.check()
        with pytest.raises(LogReplaced):
            _after(log, last.id, seen)


def test_a_growing_log_is_not_replaced(log: EventLog) -> None:
    watch = LogWatch(log)
    for n in range(3):
        watch.check()
        credit(log, n + 1)
    watch.check()


class AheadOfTheLog:
    """An effect with a position that the log lacks, because only the events were restored."""

    name = "ahead"

    def __init__(self, position: int) -> None:
        self._position = position

    def position(self) -> int:
        return self._position

    def apply(self, batch: object) -> None:
        raise AssertionError("nothing may be applied on top of unknown events")


@pytest.mark.parametrize("ahead", [1, 1000])
def test_a_position_beyond_the_log_stops_its_consumer(log: EventLog, ahead: int) -> None:
    credit(log, 10, 2)
    last = envelopes(log)[-1]
    consumer = OrderedConsumer(AheadOfTheLog(last.id + ahead), log)
    with pytest.raises(UnknownPosition):
        consumer.catch_up()
    later = last.model_copy(update={"id": last.id + ahead + 1, "prev_id": last.id + ahead})
    with pytest.raises(UnknownPosition):
        consumer.consume([later])


class Kept:
    """An effect that records its events."""

    name = "kept"

    def __init__(self) -> None:
        self.batches: list[Recorded] = []

    def position(self) -> int:
        return self.batches[-1].id if self.batches else 0

    def apply(self, batch: object) -> None:
        self.batches += batch  # type: ignore[operator]


def test_events_missing_from_the_log_are_never_applied(log: EventLog) -> None:
    credit(log, 10, 2)
    real = envelopes(log)
    changed = real[-1].state | {"amount_micros": 99}
    phantoms = [
        real[-1].model_copy(update={"state": changed}),
        real[-1].model_copy(update={"originator_id": uuid4()}),
        real[-1].model_copy(update={"originator_version": 99}),
        real[-1].model_copy(update={"id": real[-1].id + 1, "prev_id": real[-1].id}),
    ]
    for phantom in phantoms:
        effect = Kept()
        start = real[:-1] if phantom.id == real[-1].id else real
        OrderedConsumer(effect, log).consume([*start, phantom])
        assert [each.id for each in effect.batches] == [each.id for each in real]
        assert effect.batches[-1].event.event_id == real[-1].event_id
