"""The relay process: the event store's log, published to JetStream in order, once."""

from __future__ import annotations

import asyncio
import logging

import psycopg

from infrastructure.service import broker_of, serve
from infrastructure.settings import Settings
from infrastructure.store import CHANNEL, open_log
from services.relay.publisher import Publisher

POLL_SECONDS = 0.25

ADVISORY_LOCK = 0x7E1A7
"""Held by the one relay that publishes."""


def run(settings: Settings) -> None:
    """Follow the log and publish until SIGTERM."""
    log = open_log(settings)
    broker = broker_of(settings, "relay")

    async def follow() -> None:
        client = await broker.connect()
        publisher = Publisher(log, client.jetstream())
        assert settings.database_url is not None
        # LISTEN comes first, so that nothing committed after the first look is missed; the poll
        # covers notifications that get lost with a connection.
        async with await psycopg.AsyncConnection.connect(
            settings.database_url, autocommit=True
        ) as connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            await _become_the_one(connection)
            while True:
                await publisher.publish_new()
                async for _ in connection.notifies(timeout=POLL_SECONDS, stop_after=1):
                    pass

    async def keep_following() -> None:
        while True:
            try:
                await follow()
            except (psycopg.Error, OSError, TimeoutError) as error:
                logging.getLogger("relay").warning("%s; following anew", error)
                await asyncio.sleep(0.5)

    serve(broker, (), [keep_following])


async def _become_the_one(connection: psycopg.AsyncConnection) -> None:
    """Wait for the advisory lock; it falls when its holder's connection does."""
    while True:
        cursor = await connection.execute("SELECT pg_try_advisory_lock(%s)", [ADVISORY_LOCK])
        row = await cursor.fetchone()
        if row is not None and row[0]:
            return
        await asyncio.sleep(POLL_SECONDS)
