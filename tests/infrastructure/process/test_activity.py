"""Pauses between polls, which end with an event."""

from __future__ import annotations

import asyncio

from infrastructure.process.activity import activity

LONG = 3600.0


def test_an_event_ends_a_long_pause_and_makes_the_next_one_short() -> None:
    async def run() -> None:
        pauses = [asyncio.ensure_future(activity().pause(0.01, LONG)) for _ in range(2)]
        await asyncio.sleep(0)
        assert not any(each.done() for each in pauses)
        activity().note()
        await asyncio.gather(*pauses)
        await activity().pause(0.01, LONG)

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_long_pause_ends_without_an_event() -> None:
    asyncio.run(asyncio.wait_for(_paused(), 60))


async def _paused() -> None:
    await activity().pause(LONG, 0.01)


def test_each_event_loop_has_its_own_activity() -> None:
    async def own() -> object:
        assert activity() is activity()
        return activity()

    assert asyncio.run(own()) is not asyncio.run(own())
