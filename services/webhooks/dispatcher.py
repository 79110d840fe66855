"""Dispatching of due deliveries, so that a slow endpoint delays no other one."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from infrastructure.clock import Clock
from infrastructure.metrics import WEBHOOK_ATTEMPT_SECONDS
from infrastructure.progress import PROGRESS
from infrastructure.store import Connection
from infrastructure.webhook_deliveries import (
    Attempt,
    Busy,
    Due,
    due_deliveries,
    record_attempt,
)

log = logging.getLogger("webhooks")

LOOK_SECONDS = 0.5
"""Longest time between two queries for due deliveries."""

RETRY_SECONDS = 1.0
"""Pause after an error of the database."""

STOP_SECONDS = 3.0
"""Time that running attempts have to end when the process stops."""


@dataclass(frozen=True)
class Concurrency:
    """Numbers of attempts that may run at the same time."""

    endpoint: int = 4
    account: int = 16
    process: int = 256


class Dispatcher:
    """Starts due deliveries, and stores their attempts.

    Only one process dispatches. If it is killed, the deliveries in progress are still pending, and
    the next process sends them again.
    """

    def __init__(
        self,
        pool: ConnectionPool[Connection],
        clock: Clock,
        send: Callable[[Due], Awaitable[Attempt]],
        most: Concurrency = Concurrency(),
    ) -> None:
        self._pool, self._clock, self._send, self._most = pool, clock, send, most
        self._running: dict[int, tuple[Due, asyncio.Task[None]]] = {}
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Dispatch until cancelled. Running attempts then have a few seconds to end."""
        try:
            while True:
                self._ended.clear()
                await self._start_due()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._ended.wait(), LOOK_SECONDS)
        finally:
            await self._stop()

    async def _start_due(self) -> None:
        if len(self._running) >= self._most.process:
            return
        try:
            with PROGRESS.step("webhooks"):
                found = await asyncio.to_thread(self._due, self._busy())
        except (psycopg.Error, PoolTimeout) as error:
            log.warning("cannot read due deliveries, retrying: %s", error)
            await asyncio.sleep(RETRY_SECONDS)
            return
        endpoints, accounts = self._counts()
        # The accounts with the fewest running attempts come first. Sorting keeps the order of time.
        for due in sorted(found, key=lambda each: accounts[each.account_id]):
            if (
                len(self._running) < self._most.process
                and endpoints[due.endpoint_id] < self._most.endpoint
                and accounts[due.account_id] < self._most.account
            ):
                endpoints[due.endpoint_id] += 1
                accounts[due.account_id] += 1
                self._running[due.id] = (due, asyncio.create_task(self._deliver(due)))

    def _due(self, busy: Busy) -> list[Due]:
        with self._pool.connection() as connection:
            return due_deliveries(
                connection, self._clock.now(), datetime.now(UTC), self._most.endpoint, busy
            )

    def _counts(self) -> tuple[Counter[UUID], Counter[UUID]]:
        """Return the numbers of running attempts by endpoint and by account."""
        running = [due for due, _ in self._running.values()]
        return (
            Counter(each.endpoint_id for each in running),
            Counter(each.account_id for each in running),
        )

    def _busy(self) -> Busy:
        endpoints, accounts = self._counts()
        return Busy(
            deliveries=tuple(self._running),
            endpoints=[id for id, count in endpoints.items() if count >= self._most.endpoint],
            accounts=[id for id, count in accounts.items() if count >= self._most.account],
        )

    async def _deliver(self, due: Due) -> None:
        """Send a delivery, and store the attempt, however long the database is away."""
        try:
            attempt = await self._send(due)
            outcome = "accepted" if attempt.error is None else "failed"
            WEBHOOK_ATTEMPT_SECONDS.labels(outcome).observe(attempt.duration_ms / 1000)
            while True:
                try:
                    await asyncio.to_thread(self._record, due, attempt)
                    break
                except (psycopg.Error, PoolTimeout) as error:
                    log.warning("cannot store an attempt, retrying: %s", error)
                    await asyncio.sleep(RETRY_SECONDS)
        finally:
            del self._running[due.id]
            self._ended.set()

    def _record(self, due: Due, attempt: Attempt) -> None:
        with self._pool.connection() as connection:
            status = record_attempt(connection, due.id, attempt, self._clock.now())
        log.debug("delivery %d is %s", due.id, status)

    async def _stop(self) -> None:
        tasks = [task for _, task in self._running.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
