"""All projections follow the event stream together. One that fails catches up later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import UUID

import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from domain.core.recorded import Recorded
from infrastructure.bus.service import broker_of
from infrastructure.bus.streams import provision
from infrastructure.postgres.store import Connection
from infrastructure.settings import Settings
from projections import ACCOUNTS, BILLING_LEDGER, PROJECTIONS
from projections.accounts import all_accounts
from projections.billing_ledger import postings_of
from projections.projection import Cursor, Projection, lowest_position
from services.projector import following
from services.projector.following import Following
from services.relay.publisher import Publisher
from tests.builders.examples import ACCOUNT_ID
from tests.logs import grow, ids
from tests.polling import eventually_async
from tests.projections.conftest import OtherRelease


@asynccontextmanager
async def followed(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], js: JetStreamContext
) -> AsyncIterator[None]:
    """Run all projections on the bus."""
    projector, broker = Following(log, pool.connection), broker_of(settings, "test")
    await provision(js, (projector.durable,))
    projector.subscribe(broker)
    await broker.start()
    running = asyncio.ensure_future(projector.run())
    try:
        yield
    finally:
        running.cancel()
        await broker.stop()


async def test_a_projection_that_fails_holds_back_no_other_and_catches_up_later(
    settings: Settings,
    log: EventLog,
    pool: ConnectionPool[Connection],
    nats: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = [True]

    def apply(cursor: Cursor, batch: Sequence[Recorded]) -> None:
        if broken:
            cursor.execute("SELECT 1 / 0")
        BILLING_LEDGER.apply(cursor, batch)

    async def applied(*projections: Projection) -> bool:
        with pool.connection() as connection:
            return lowest_position(connection, projections) == ids(log)[-1]

    others = [each for each in PROJECTIONS if each is not BILLING_LEDGER]
    monkeypatch.setattr(following, "PROJECTIONS", [*others, replace(BILLING_LEDGER, apply=apply)])
    publisher = Publisher(log, nats, UUID(int=15))
    async with followed(settings, log, pool, nats.jetstream()):
        grow(log, 5)
        await publisher.publish_new()
        await eventually_async(lambda: applied(*others))
        grow(log, 5)
        await publisher.publish_new()
        await eventually_async(lambda: applied(*others))
        assert not await applied(BILLING_LEDGER)
        broken.clear()
        await eventually_async(lambda: applied(BILLING_LEDGER))
        grow(log, 1)
        await publisher.publish_new()
        await eventually_async(lambda: applied(ACCOUNTS, BILLING_LEDGER))
    with pool.connection() as connection:
        assert len(postings_of(connection, ACCOUNT_ID)) == 10  # one for each credit


async def test_a_projection_whose_tables_another_release_rebuilt_waits_for_its_own_shape(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], nats: Client
) -> None:
    release, publisher = OtherRelease(settings, log), Publisher(log, nats, UUID(int=15))
    others = [each for each in PROJECTIONS if each is not ACCOUNTS]

    async def applied(*projections: Projection) -> bool:
        with pool.connection() as connection:
            return lowest_position(connection, projections) == ids(log)[-1]

    async with followed(settings, log, pool, nats.jetstream()):
        grow(log, 5)
        await publisher.publish_new()
        await eventually_async(lambda: applied(*PROJECTIONS))
        await asyncio.to_thread(release.rebuild, ACCOUNTS)
        grow(log, 5)
        await publisher.publish_new()
        await eventually_async(lambda: applied(*others))
        assert not await applied(ACCOUNTS)
        await asyncio.to_thread(release.roll_back, ACCOUNTS)
        grow(log, 5)
        await publisher.publish_new()
        await eventually_async(lambda: applied(*PROJECTIONS))
    with pool.connection() as connection:
        (account,) = all_accounts(connection)
    assert account["balance_micros"] == 14
    assert "note" not in account
