"""The sealer process: seals the event log as it grows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import httpx
import psycopg

from domain.audit.tree_head import LogKey
from infrastructure.artifacts.store import STORE_ERRORS, Artifacts
from infrastructure.bus.service import Work, run_until_stopped
from infrastructure.extensions import selected
from infrastructure.extras import MissingExtra
from infrastructure.postgres.leadership import LOST, Leadership, leading
from infrastructure.postgres.log_identity import log_identity
from infrastructure.postgres.store import Connection, connect
from infrastructure.process.progress import PROGRESS
from infrastructure.seals.archive import LastHead, SealArchive, SealDamaged, origin_of
from infrastructure.seals.timestamps import TimestampRefused, request_timestamp
from infrastructure.settings import Settings
from services.sealer.sealer import LogRewritten, Sealer

T = TypeVar("T")

PAUSE_SECONDS = 1.0
RETRY_SECONDS = 5.0
REFUSED_SECONDS = 60.0
"""Interval between two attempts to seal a log or an archive that changed."""

TIMESTAMP_SECONDS = 600.0
"""Interval between two timestamps of the newest head. Public authorities limit their clients."""


def run(settings: Settings) -> None:
    """Wait until no other sealer runs, then seal events until SIGTERM."""
    with leading(settings, "sealer") as leadership:
        run_until_stopped(lambda: seal_and_sign(settings, leadership))


async def seal_and_sign(settings: Settings, leadership: Leadership) -> None:
    """Seal events, and run what else needs the seal key, until cancelled."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_keep_sealing(settings, leadership))
        for extension in selected():
            for reference in extension.signed_documents.values():
                signing = partial(extension.load(reference), settings, leadership)
                tasks.create_task(_keep_running(reference, signing))
        if settings.timestamp_url is not None:
            stamping = partial(_keep_timestamping, settings, str(settings.timestamp_url))
            tasks.create_task(_keep_running("timestamps", stamping))


async def _keep_running(name: str, work: Work) -> None:
    """Run work beside sealing, again after an error, which must not stop sealing."""
    while True:
        try:
            return await work()
        except Exception:
            logging.getLogger("sealer").exception("%s failed; restarting it", name)
        await asyncio.sleep(RETRY_SECONDS)


async def _keep_timestamping(settings: Settings, url: str) -> None:
    """Request timestamps of the newest head. Sealing never waits for the authority."""
    logger = logging.getLogger("sealer")
    archive = SealArchive(Artifacts(settings.artifacts))
    while True:
        pause = RETRY_SECONDS
        try:
            with connect(settings) as store:
                origin = origin_of(log_identity(store))
            key = LogKey(origin, archive.sealing_key(settings.seal_key_file).public_key())
            if await asyncio.to_thread(timestamp_newest, archive, key, url):
                pause = TIMESTAMP_SECONDS
        except (SealDamaged, TimestampRefused, MissingExtra, httpx.HTTPError) as error:
            logger.error("The newest head has no timestamp: %s", error)
            pause = REFUSED_SECONDS
        except (psycopg.Error, *STORE_ERRORS) as error:
            logger.warning("%s; retrying", error)
        await asyncio.sleep(pause)


def timestamp_newest(archive: SealArchive, key: LogKey, url: str) -> bool:
    """Store a timestamp of the newest head. Return False if all heads have theirs.

    Raise SealDamaged, TimestampRefused, MissingExtra or httpx.HTTPError.
    """
    head = archive.last_head(key)
    if head is None or archive.has_timestamp(head.size):
        return False
    archive.put_timestamp(head.size, request_timestamp(url, head))
    return True


async def _keep_sealing(settings: Settings, leadership: Leadership) -> None:
    logger = logging.getLogger("sealer")
    while True:
        try:
            with connect(settings) as store:
                await seal(settings, leadership, store)
        except (LogRewritten, SealDamaged) as error:
            logger.critical("%s", error)
            await asyncio.sleep(REFUSED_SECONDS)
        except (psycopg.Error, *STORE_ERRORS) as error:
            logger.warning("%s; retrying", error)
            await asyncio.sleep(RETRY_SECONDS)


async def seal(settings: Settings, leadership: Leadership, store: Connection) -> None:
    """Seal events until an error, or until cancelled. The last head covers all hashed events."""
    archive = SealArchive(Artifacts(settings.artifacts))
    key = archive.sealing_key(settings.seal_key_file)
    sealer = Sealer(archive, origin_of(log_identity(store)), key, lambda: datetime.now(UTC))
    sealer.exporting = lambda: as_leader(store, leadership)
    sealer.last_head = LastHead.beside(settings.seal_key_file)
    await in_thread(lambda: sealer.resume(store))
    await in_thread(lambda: _publish_key(archive, sealer.log_key, store, leadership))
    try:
        while True:
            with PROGRESS.step("sealing"):
                more = await in_thread(lambda: sealer.step(store))
            if not more:
                await asyncio.sleep(PAUSE_SECONDS)
    except asyncio.CancelledError:
        with suppress(psycopg.Error, *STORE_ERRORS):
            sealer.export()
        raise


async def in_thread(work: Callable[[], T]) -> T:
    """Run work in a thread. If this task is cancelled, wait until the thread has finished."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def _publish_key(
    archive: SealArchive, key: LogKey, store: Connection, leadership: Leadership
) -> None:
    with as_leader(store, leadership):
        archive.put_public_key(key)


@contextmanager
def as_leader(store: Connection, leadership: Leadership) -> Generator[None]:
    """Run the block while no other sealer can start. End this process if another one leads."""
    try:
        with store.transaction():
            store.execute("SELECT require_lead(%s, %s)", (leadership.name, leadership.epoch))
            yield
    except psycopg.Error as error:
        if error.sqlstate == LOST:
            leadership.lost("PostgreSQL refused an export")
        raise
