"""The synthesis process, which generates the examples of approved syntheses."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from uuid import UUID

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from infrastructure.artifacts import Artifacts
from infrastructure.backoff import Backoff
from infrastructure.clock import Clock, clock_of
from infrastructure.leadership import Leadership, leading
from infrastructure.log_identity import watch_log
from infrastructure.progress import PROGRESS
from infrastructure.service import run_until_stopped
from infrastructure.settings import Settings
from infrastructure.store import Connection, open_log, open_pool
from projections.projection import Row
from projections.syntheses import working
from services.synthesis.generating import Generating, Pace
from services.synthesis.models import open_connections

POLL_SECONDS = 0.5
LISTED = 200
MOST_RUNS, MOST_RUNS_OF_ACCOUNT = 16, 2
"""Syntheses that the process works on at the same time, in total and of one account."""

UNAVAILABLE = (psycopg.Error, PoolTimeout)

log = logging.getLogger("synthesis")


def run(settings: Settings) -> None:
    """Wait until no other synthesis process runs, then generate until SIGTERM."""
    with leading(settings, "synthesis") as leadership:
        run_until_stopped(lambda: _generate(settings, leadership))


async def _generate(settings: Settings, leadership: Leadership) -> None:
    clock, artifacts = clock_of(settings), Artifacts(settings.artifacts)
    event_log, pool = open_log(settings, leadership=leadership), open_pool(settings, max_size=8)
    pace = Pace(at_once=settings.synthesis_requests)
    async with open_connections(settings, settings.webhook_policy) as connections:
        generating = Generating(event_log, clock, artifacts, pool, connections, pace)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch_log(event_log))
            tasks.create_task(Working(generating, pool, clock).run())


class Working:
    """Starts the work on syntheses that the read model lists, a few at a time."""

    def __init__(
        self, generating: Generating, pool: ConnectionPool[Connection], clock: Clock
    ) -> None:
        self._generating, self._pool, self._clock = generating, pool, clock
        self._running: dict[UUID, tuple[UUID, asyncio.Task[None]]] = {}  # account and task
        self._backoff = Backoff[UUID]()

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                try:
                    with PROGRESS.step("synthesis"):
                        self._start(await asyncio.to_thread(self._listed))
                except UNAVAILABLE as error:
                    log.warning("cannot read syntheses, retrying: %s", error)
                await asyncio.sleep(POLL_SECONDS)
        finally:
            tasks = [task for _, task in self._running.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _listed(self) -> list[Row]:
        with self._pool.connection() as connection:
            return working(connection, LISTED)

    def _start(self, rows: list[Row]) -> None:
        waiting = self._backoff.waiting(self._clock.now())
        accounts = Counter(account_id for account_id, _ in self._running.values())
        for row in sorted(rows, key=lambda each: accounts[each["account_id"]]):
            id, account_id = row["synthesis_id"], row["account_id"]
            busy = id in self._running or id in waiting
            if busy or accounts[account_id] >= MOST_RUNS_OF_ACCOUNT:
                continue
            if len(self._running) >= MOST_RUNS:
                return
            accounts[account_id] += 1
            self._running[id] = (account_id, asyncio.create_task(self._work(id)))

    async def _work(self, synthesis_id: UUID) -> None:
        try:
            await self._generating.work(synthesis_id)
        except Exception:
            pause = self._backoff.postpone(synthesis_id, self._clock.now())
            log.exception("synthesis %s failed, retrying in %s", synthesis_id, pause)
        else:
            self._backoff.reset(synthesis_id)
        finally:
            self._running.pop(synthesis_id, None)
