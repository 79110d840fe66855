"""The choice of the syntheses that the process works on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from services.synthesis.app import MOST_RUNS, Working
from tests.builders.commands import FixedClock


@dataclass
class Failing:
    """Work that always fails."""

    calls: list[UUID] = field(default_factory=list[UUID])
    given_up: list[UUID] = field(default_factory=list[UUID])

    async def work(self, synthesis_id: UUID, crowded: Callable[[], bool]) -> None:
        self.calls.append(synthesis_id)
        raise RuntimeError("unexpected")

    async def give_up(self, synthesis_id: UUID) -> None:
        self.given_up.append(synthesis_id)


@dataclass
class Endless:
    """Work that returns only when others wait."""

    turns: list[UUID] = field(default_factory=list[UUID])

    async def work(self, synthesis_id: UUID, crowded: Callable[[], bool]) -> None:
        self.turns.append(synthesis_id)
        while not crowded():  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)

    async def give_up(self, synthesis_id: UUID) -> None:
        raise AssertionError


def row(synthesis: int, account: int) -> dict[str, UUID]:
    return {"synthesis_id": UUID(int=synthesis), "account_id": UUID(int=1_000 + account)}


def test_work_that_keeps_failing_is_given_up() -> None:
    clock, failing = FixedClock(), Failing()

    async def run() -> None:
        working = Working(failing, clock)
        while not failing.given_up:
            working.start([row(1, 1)])
            await working.settled()
            clock.time += timedelta(hours=1)

    asyncio.run(run())
    assert failing.calls == [UUID(int=1)] * 5


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
