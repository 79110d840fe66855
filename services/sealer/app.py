"""The sealer process: seals the event log as it grows, in an archive outside the database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime

import psycopg

from infrastructure.artifacts import STORE_ERRORS, Artifacts
from infrastructure.leadership import LOST, Leadership, leading
from infrastructure.log_identity import log_identity
from infrastructure.progress import PROGRESS
from infrastructure.seal_archive import SealArchive, SealDamaged, make_key, origin_of
from infrastructure.service import run_until_stopped
from infrastructure.settings import Settings
from infrastructure.store import Connection, connect
from services.sealer.sealer import LogRewritten, Sealer

PAUSE_SECONDS = 0.5
RETRY_SECONDS = 5.0
REFUSED_SECONDS = 60.0
"""Interval between two attempts to seal a log or an archive that changed."""


def run(settings: Settings) -> None:
    """Wait until no other sealer runs, then seal events until SIGTERM."""
    with leading(settings, "sealer") as leadership:
        run_until_stopped(lambda: _keep_sealing(settings, leadership))


async def _keep_sealing(settings: Settings, leadership: Leadership) -> None:
    logger = logging.getLogger("sealer")
    while True:
        try:
            with connect(settings) as store:
                await _seal(settings, leadership, store)
        except (LogRewritten, SealDamaged) as error:
            logger.critical("%s", error)
            await asyncio.sleep(REFUSED_SECONDS)
        except (psycopg.Error, *STORE_ERRORS) as error:
            logger.warning("%s; retrying", error)
            await asyncio.sleep(RETRY_SECONDS)


async def _seal(settings: Settings, leadership: Leadership, store: Connection) -> None:
    """Seal events until an error, or until cancelled. The last head covers all hashed events."""
    archive = SealArchive(Artifacts(settings.artifacts))
    key = make_key(settings.seal_key_file)
    sealer = Sealer(
        archive,
        origin_of(log_identity(store)),
        key,
        lambda: datetime.now(UTC),
        exporting=lambda: _as_leader(store, leadership),
    )
    await asyncio.to_thread(sealer.resume, store)
    try:
        while True:
            with PROGRESS.step("sealing"):
                more = await asyncio.to_thread(sealer.step, store)
            if not more:
                await asyncio.sleep(PAUSE_SECONDS)
    except asyncio.CancelledError:
        sealer.export()
        raise


@contextmanager
def _as_leader(store: Connection, leadership: Leadership) -> Generator[None]:
    """Run the block while no other sealer can start. End this process if another one leads."""
    try:
        with store.transaction():
            store.execute("SELECT require_lead(%s, %s)", (leadership.name, leadership.epoch))
            yield
    except psycopg.Error as error:
        if error.sqlstate == LOST:
            leadership.lost("PostgreSQL refused an export")
        raise
