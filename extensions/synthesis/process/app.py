"""The synthesis process, which generates the examples of approved syntheses."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Protocol
from uuid import UUID

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from extensions.synthesis.process.generating import Generating, Pace
from extensions.synthesis.process.models import open_connections
from extensions.synthesis.process.outages import is_outage
from extensions.synthesis.settings import SynthesisSettings
from extensions.synthesis.synthesis_rows import stalled_seconds, working
from infrastructure.artifacts.store import Artifacts
from infrastructure.bus.service import every, run_until_stopped
from infrastructure.postgres.leadership import Leadership, leading
from infrastructure.postgres.log_identity import watch_log
from infrastructure.postgres.store import Connection, open_log, open_pool
from infrastructure.process.backoff import Backoff
from infrastructure.process.clock import Clock, clock_of
from infrastructure.process.metrics import PENDING_SECONDS
from infrastructure.process.progress import PROGRESS
from infrastructure.process.role import settings_of
from infrastructure.settings import Settings
from projections.projection import Row

MEASURE_SECONDS = 15.0
"""Time between two updates of the gauge."""

POLL_SECONDS = 0.5
MOST_RUNS, MOST_RUNS_OF_ACCOUNT = 16, 2
"""Syntheses that the process works on at the same time, in total and of one account."""

MOST_FAILURES = 5
"""Unexpected errors, without a completed batch between them, after which a synthesis pauses."""

UNAVAILABLE = (psycopg.Error, PoolTimeout)

log = logging.getLogger("synthesis")


def run(settings: Settings) -> None:
    """Wait until no other synthesis process runs, then generate until SIGTERM."""
    with leading(settings, "synthesis") as leadership:
        run_until_stopped(lambda: _generate(settings, leadership))


async def _generate(settings: Settings, leadership: Leadership) -> None:
    clock, artifacts = clock_of(settings), Artifacts(settings.artifacts)
    pool = open_pool(settings, max_size=8)
    event_log = open_log(settings, pool=pool, leadership=leadership)
    pace = Pace(at_once=settings_of(SynthesisSettings).synthesis_requests)
    async with open_connections(settings, settings.webhook_policy) as connections:
        generating = Generating(event_log, clock, artifacts, pool, connections, pace)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_measure(pool, clock))
            tasks.create_task(watch_log(event_log))
            tasks.create_task(Working(generating, clock).run(pool))


class Work(Protocol):
    """The work on one synthesis."""

    async def work(
        self, synthesis_id: UUID, crowded: Callable[[], bool], completed: Callable[[], None]
    ) -> None:
        """Generate until the run pauses, ends or has had its turn. Call `completed` per batch."""
        ...

    async def give_up(self, synthesis_id: UUID) -> bool:
        """Pause a run whose work keeps failing. Return True if it needs no more work."""
        ...


async def _measure(pool: ConnectionPool[Connection], clock: Clock) -> None:
    await every(MEASURE_SECONDS, lambda: measure_pending(pool, clock), "metrics")()


def measure_pending(pool: ConnectionPool[Connection], clock: Clock) -> None:
    """Set the gauge of syntheses without progress."""
    with pool.connection() as connection:
        seconds = stalled_seconds(connection, clock.now(), MOST_RUNS_OF_ACCOUNT)
    PENDING_SECONDS.labels("syntheses").set(seconds)


class Working:
    """Starts the work on syntheses that the read model lists, a few at a time."""

    def __init__(self, work: Work, clock: Clock) -> None:
        self._generating, self._clock = work, clock
        self._running: dict[UUID, tuple[UUID, asyncio.Task[None]]] = {}  # account and task
        self._backoff = Backoff[UUID]()
        self._errors = Counter[UUID]()  # unexpected ones, since the last completed batch
        self._count = count()
        self._turns: dict[UUID, int] = {}  # the last turn of each synthesis and account
        self._crowded = False

    async def run(self, pool: ConnectionPool[Connection]) -> None:
        """Work on what the read model lists, until cancelled."""

        def listed() -> list[Row]:
            with pool.connection() as connection:
                return working(connection)

        try:
            while True:
                try:
                    with PROGRESS.step("synthesis"):
                        self.start(await asyncio.to_thread(listed))
                except UNAVAILABLE as error:
                    log.warning("cannot read syntheses, retrying: %s", error)
                await asyncio.sleep(POLL_SECONDS)
        finally:
            await self.cancel()

    async def cancel(self) -> None:
        """Cancel all work, and wait until it has ended."""
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def settled(self) -> None:
        """Wait until all work that was started has ended."""
        await asyncio.gather(*(task for _, task in self._running.values()))

    def start(self, rows: Sequence[Mapping[str, UUID]]) -> None:
        """Start the work on listed syntheses, as far as there is room.

        Accounts with the fewest running syntheses go first, then those that waited the longest.
        """
        waiting = self._backoff.waiting(self._clock.now())
        accounts = Counter(account_id for account_id, _ in self._running.values())
        left = {
            row["synthesis_id"]: row["account_id"]
            for row in rows
            if row["synthesis_id"] not in self._running and row["synthesis_id"] not in waiting
        }
        known = {*self._running, *accounts, *left, *left.values()}
        self._turns = {id: turn for id, turn in self._turns.items() if id in known}
        while left and len(self._running) < MOST_RUNS:
            id = min(left, key=lambda each: self._place(accounts, left[each], each))
            account_id = left[id]
            if accounts[account_id] >= MOST_RUNS_OF_ACCOUNT:
                break
            del left[id]
            accounts[account_id] += 1
            self._turns[id] = self._turns[account_id] = next(self._count)
            self._running[id] = (account_id, asyncio.create_task(self._work(id)))
        self._crowded = any(accounts[each] < MOST_RUNS_OF_ACCOUNT for each in left.values())

    def _place(
        self, accounts: Counter[UUID], account_id: UUID, synthesis_id: UUID
    ) -> tuple[int, int, int]:
        """Return the order of the next turn. The lowest is first."""
        last = self._turns.get
        return accounts[account_id], last(account_id, -1), last(synthesis_id, -1)

    async def _work(self, synthesis_id: UUID) -> None:
        reset = partial(self._reset, synthesis_id)
        try:
            await self._generating.work(synthesis_id, lambda: self._crowded, reset)
        except Exception as error:
            pause = self._backoff.postpone(synthesis_id, self._clock.now())
            log.exception("synthesis %s failed, retrying in %s", synthesis_id, pause)
            if not is_outage(error):
                self._errors[synthesis_id] += 1
                if self._errors[synthesis_id] >= MOST_FAILURES:
                    await self._give_up(synthesis_id)
        else:
            reset()
        finally:
            self._running.pop(synthesis_id, None)

    def _reset(self, synthesis_id: UUID) -> None:
        self._backoff.reset(synthesis_id)
        self._errors.pop(synthesis_id, None)

    async def _give_up(self, synthesis_id: UUID) -> None:
        """Pause a synthesis that would fail forever. If it goes on, its retries get rarer."""
        try:
            if await self._generating.give_up(synthesis_id):
                self._reset(synthesis_id)
        except Exception:
            log.exception("synthesis %s cannot be paused", synthesis_id)
