"""The choice of the syntheses that the process works on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest
from eventsourcing.persistence import PersistenceError
from obstore.exceptions import GenericError, PermissionDeniedError

from extensions.synthesis.process.app import MOST_RUNS, Working
from tests.builders.commands import FixedClock


@dataclass
class Failing:
    """Work that always fails, with the same error, and after some batches.

    A run that cannot be closed still needs work after its pause.
    """

    error: Exception = field(default_factory=lambda: RuntimeError("unexpected"))
    batches: int = 0
    can_be_closed: bool = True
    calls: list[UUID] = field(default_factory=list[UUID])
    given_up: list[UUID] = field(default_factory=list[UUID])

    async def work(
        self, synthesis_id: UUID, crowded: Callable[[], bool], completed: Callable[[], None]
    ) -> None:
        self.calls.append(synthesis_id)
        for _ in range(self.batches):
            completed()
        raise self.error

    async def give_up(self, synthesis_id: UUID) -> bool:
        self.given_up.append(synthesis_id)
        return self.can_be_closed


@dataclass
class Endless:
    """Work that returns only when others wait."""

    turns: list[UUID] = field(default_factory=list[UUID])

    async def work(
        self, synthesis_id: UUID, crowded: Callable[[], bool], completed: Callable[[], None]
    ) -> None:
        self.turns.append(synthesis_id)
        while not crowded():  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)

    async def give_up(self, synthesis_id: UUID) -> bool:
        raise AssertionError


def row(synthesis: int, account: int) -> dict[str, UUID]:
    return {"synthesis_id": UUID(int=synthesis), "account_id": UUID(int=1_000 + account)}


def repeat(
    working: Working, clock: FixedClock, times: int, apart: timedelta = timedelta(hours=1)
) -> None:
    """Work on a synthesis again and again."""

    async def run() -> None:
        for _ in range(times):
            working.start([row(1, 1)])
            await working.settled()
            clock.time += apart

    asyncio.run(run())


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("unexpected"),
        PermissionDeniedError("AccessDenied"),
        FileNotFoundError("jobs/a"),
        ExceptionGroup("workers", [GenericError("S3 is down."), RuntimeError("unexpected")]),
    ],
    ids=["unexpected", "denied", "missing", "group"],
)
def test_work_that_keeps_failing_is_given_up(error: Exception) -> None:
    clock, failing = FixedClock(), Failing(error)
    repeat(working := Working(failing, clock), clock, 4)
    assert failing.given_up == []
    repeat(working, clock, 1)
    assert failing.given_up == [UUID(int=1)]


@pytest.mark.parametrize(
    "error",
    [
        GenericError("S3 is down."),
        psycopg.OperationalError("the database system is starting up"),
        PersistenceError("no connection"),
        ExceptionGroup("workers", [ExceptionGroup("inner", [GenericError("S3 is down.")])]),
    ],
    ids=["store", "database", "log", "group"],
)
def test_an_outage_counts_as_no_error(error: Exception) -> None:
    clock, failing = FixedClock(), Failing(error)
    repeat(working := Working(failing, clock), clock, 20)
    failing.error = RuntimeError("unexpected")
    repeat(working, clock, 4)
    assert failing.given_up == []


def test_errors_with_batches_between_them_are_not_in_a_row() -> None:
    clock, failing = FixedClock(), Failing(batches=1)
    repeat(Working(failing, clock), clock, 20)
    assert failing.given_up == []


def test_a_run_that_cannot_be_closed_is_retried_after_the_longest_pause() -> None:
    clock, failing = FixedClock(), Failing(can_be_closed=False)
    repeat(working := Working(failing, clock), clock, 10)
    failing.calls.clear()
    repeat(working, clock, 12, timedelta(minutes=1))
    assert len(failing.calls) == 3


def test_a_run_that_was_given_up_can_fail_as_often_after_it_is_resumed() -> None:
    clock, failing = FixedClock(), Failing()
    repeat(Working(failing, clock), clock, 9)
    assert len(failing.given_up) == 1


def test_long_runs_leave_room_for_those_of_other_accounts() -> None:
    endless = Endless()
    greedy = [row(10 * account + each, account) for account in range(1, 9) for each in range(4)]
    late = row(1, 99)

    async def run() -> None:
        working = Working(endless, FixedClock())
        working.start(greedy)
        await asyncio.sleep(0)
        assert len(endless.turns) == MOST_RUNS
        for _ in range(20):
            working.start([*greedy, late])
            for _ in range(3):
                await asyncio.sleep(0)
        working.start([])
        await working.cancel()

    asyncio.run(run())
    turns = Counter(endless.turns)
    assert turns[late["synthesis_id"]] > 1
    assert all(turns[each["synthesis_id"]] > 0 for each in greedy)


def test_runs_without_others_keep_their_turn() -> None:
    endless = Endless()

    async def run() -> None:
        working = Working(endless, FixedClock())
        for _ in range(5):
            working.start([row(1, 1), row(2, 1), row(3, 1), row(4, 2)])
            await asyncio.sleep(0)
        await working.cancel()

    asyncio.run(run())
    assert sorted(endless.turns) == [UUID(int=each) for each in (1, 2, 4)]
