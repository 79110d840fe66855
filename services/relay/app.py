"""The relay process, which publishes the event log to JetStream in order, each event once."""

from __future__ import annotations

import asyncio
import logging

import psycopg

from infrastructure.bus.service import broker_of, serve
from infrastructure.postgres.event_recorder import EventRecorder
from infrastructure.postgres.leadership import leading
from infrastructure.postgres.log_identity import log_identity
from infrastructure.postgres.store import connect, connect_to_listen, open_log
from infrastructure.settings import Settings
from services.relay.publisher import Publisher

POLL_SECONDS = 1.0


def run(settings: Settings) -> None:
    """Wait until no other relay runs, then publish the log until SIGTERM.

    Raise ForeignStream if the stream is a copy of another log, and FormerPrimary if another server
    of the database was promoted.
    """
    with leading(settings, "relay"):
        _relay(settings)


def _relay(settings: Settings) -> None:
    log = open_log(settings)
    recorder = log.recorder
    assert isinstance(recorder, EventRecorder)
    broker = broker_of(settings, "relay")

    async def follow() -> None:
        client = await broker.connect()
        with connect(settings) as store:
            publisher = Publisher(
                log, client, log_identity(store), recorder.select_with_timeline, broker.api
            )
        # LISTEN comes before the first read, so that no commit is missed. Polling finds commits
        # whose notification was lost with a broken connection.
        async with await connect_to_listen(settings) as connection:
            while True:
                await publisher.publish_new()
                async for _ in connection.notifies(timeout=POLL_SECONDS, stop_after=1):
                    pass

    async def keep_following() -> None:
        while True:
            try:
                await follow()
            except (psycopg.Error, OSError, TimeoutError) as error:
                logging.getLogger("relay").warning("%s; reconnecting", error)
                await asyncio.sleep(0.5)

    serve(broker, (), [keep_following])
