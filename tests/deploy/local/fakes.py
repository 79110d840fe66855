"""Small services for the supervisor to run; each is named like a real one, `module:callable`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from types import FrameType

from infrastructure.progress import PROGRESS
from infrastructure.service import every
from infrastructure.settings import Settings

STEADY = "tests.deploy.local.fakes:steady"
STUBBORN = "tests.deploy.local.fakes:stubborn"
LOOPING = "tests.deploy.local.fakes:looping"
CRASHING = "tests.deploy.local.fakes:crashing"


def steady(settings: Settings) -> None:
    """Run until told to stop; tell what it was given."""
    (settings.home / "steady.env").write_text("\n".join(sorted(os.environ)))

    def stop(number: int, frame: FrameType | None) -> None:
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    while True:
        signal.pause()


def stubborn(settings: Settings) -> None:
    """Run on when told to stop."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()


def crashing(settings: Settings) -> None:
    """End at once, with an error."""
    raise RuntimeError("this service always crashes")


def looping(settings: Settings) -> None:
    """Run an event loop as services do, whose first step of work never ends."""

    async def serve() -> None:
        async def work() -> None:
            await every(1.0, lambda: time.sleep(1e6), "stuck")()

        await asyncio.gather(PROGRESS.beat(), work())

    asyncio.run(serve())
