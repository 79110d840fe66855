"""The choice of the syntheses that the process works on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from services.synthesis.app import Working
from tests.builders.commands import FixedClock


@dataclass
class Failing:
    """Work that always fails."""

    calls: list[UUID] = field(default_factory=list[UUID])
    given_up: list[UUID] = field(default_factory=list[UUID])

    async def work(self, synthesis_id: UUID) -> None:
        self.calls.append(synthesis_id)
        raise RuntimeError("unexpected")

    async def give_up(self, synthesis_id: UUID) -> None:
        self.given_up.append(synthesis_id)


def row(synthesis: int, account: int) -> dict[str, UUID]:
    return {"synthesis_id": UUID(int=synthesis), "account_id": UUID(int=account)}


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
