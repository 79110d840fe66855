"""Dispatching of due work for servers of customers, so that a slow server delays no other one."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

import psycopg
from psycopg_pool import PoolTimeout

from infrastructure.process.activity import activity
from infrastructure.process.progress import PROGRESS

POLL_SECONDS, IDLE_SECONDS = 0.5, 1.0
"""Longest time between two queries for due messages: after an event, and otherwise."""

RETRY_SECONDS = 1.0
"""Pause after an error of the database."""

STOP_SECONDS = 3.0
"""Time that running attempts have to end when the process stops."""

UNAVAILABLE = (psycopg.Error, PoolTimeout)
"""Errors of a database that does not respond, or not in time."""


@dataclass(frozen=True)
class Busy:
    """Messages, receivers and accounts for which no further attempt may start now."""

    messages: Collection[Any] = ()
    receivers: Collection[Any] = ()
    accounts: Collection[UUID] = ()


class DueMessage(Protocol):
    """A message whose next attempt is due."""

    @property
    def id(self) -> Hashable: ...

    @property
    def receiver_id(self) -> Hashable:
        """The endpoint, the address or the server that receives it."""
        ...

    @property
    def account_id(self) -> UUID: ...


D = TypeVar("D", bound=DueMessage)
R = TypeVar("R")


class Queue(Protocol[D, R]):
    """Stored messages of one kind, and how to send them."""

    def due(self, busy: Busy) -> Sequence[D]:
        """Return due messages in order, except busy ones. Raise errors of the database."""
        ...

    async def send(self, due: D) -> R:
        """Make one attempt, and return its result. A failed attempt raises no error."""
        ...

    def record(self, due: D, result: R) -> None:
        """Store the result of an attempt. Raise errors of the database."""
        ...


@dataclass(frozen=True)
class Concurrency:
    """Numbers of attempts that may run at the same time."""

    receiver: int = 4
    account: int = 16
    process: int = 256


class Dispatcher(Generic[D, R]):
    """Starts the due messages of a queue, and stores the results.

    Only one process dispatches. `name` is that of its log.
    """

    def __init__(self, queue: Queue[D, R], most: Concurrency, name: str = "webhooks") -> None:
        self._queue, self._most = queue, most
        self._name, self._log = name, logging.getLogger(name)
        self._running: dict[Any, tuple[D, asyncio.Task[None]]] = {}
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Dispatch until cancelled. Running attempts then have a few seconds to end."""
        try:
            while True:
                self._ended.clear()
                await self._start_due()
                if not self._running:
                    await activity().pause(POLL_SECONDS, IDLE_SECONDS)
                    continue
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._ended.wait(), POLL_SECONDS)
        finally:
            await self._stop()

    async def _start_due(self) -> None:
        if len(self._running) >= self._most.process:
            return
        try:
            with PROGRESS.step(self._name):
                found = await asyncio.to_thread(self._queue.due, self._busy())
        except UNAVAILABLE as error:
            self._log.warning("cannot read due messages, retrying: %s", error)
            await asyncio.sleep(RETRY_SECONDS)
            return
        receivers, accounts = self._counts()
        # The accounts with the fewest running attempts come first. Sorting keeps the order of time.
        for due in sorted(found, key=lambda each: accounts[each.account_id]):
            if (
                len(self._running) < self._most.process
                and receivers[due.receiver_id] < self._most.receiver
                and accounts[due.account_id] < self._most.account
            ):
                receivers[due.receiver_id] += 1
                accounts[due.account_id] += 1
                self._running[due.id] = (due, asyncio.create_task(self._deliver(due)))

    def _counts(self) -> tuple[Counter[Hashable], Counter[UUID]]:
        """Return the numbers of running attempts by receiver and by account."""
        running = [due for due, _ in self._running.values()]
        return (
            Counter(each.receiver_id for each in running),
            Counter(each.account_id for each in running),
        )

    def _busy(self) -> Busy:
        receivers, accounts = self._counts()
        return Busy(
            messages=tuple(self._running),
            receivers=[id for id, count in receivers.items() if count >= self._most.receiver],
            accounts=[id for id, count in accounts.items() if count >= self._most.account],
        )

    async def _deliver(self, due: D) -> None:
        """Send a message, and store the result. Wait while the database is unavailable."""
        try:
            result = await self._queue.send(due)
            while True:
                try:
                    await asyncio.to_thread(self._queue.record, due, result)
                    break
                except UNAVAILABLE as error:
                    self._log.warning("cannot store an attempt, retrying: %s", error)
                    await asyncio.sleep(RETRY_SECONDS)
        finally:
            del self._running[due.id]
            self._ended.set()

    async def _stop(self) -> None:
        tasks = [task for _, task in self._running.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
