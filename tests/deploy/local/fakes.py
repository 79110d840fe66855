"""Small services for the supervisor to run, each named as `module:callable`."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress

import httpx

from infrastructure.bus.service import every, run_until_stopped
from infrastructure.process.progress import PROGRESS
from infrastructure.settings import Settings

STEADY = "tests.deploy.local.fakes:steady"
STUBBORN = "tests.deploy.local.fakes:stubborn"
LOOPING = "tests.deploy.local.fakes:looping"
HARD_TO_CANCEL = "tests.deploy.local.fakes:hard_to_cancel"
CRASHING = "tests.deploy.local.fakes:crashing"
REQUESTING = "tests.deploy.local.fakes:requesting"


def steady(settings: Settings) -> None:
    """Run until SIGTERM; write the environment to a file."""
    (settings.home / "steady.env").write_text("\n".join(sorted(os.environ)))
    while True:
        signal.pause()


def stubborn(settings: Settings) -> None:
    """Ignore SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()


def hard_to_cancel(settings: Settings) -> None:
    """Run work that loses its first cancellation; write a file when it runs."""

    async def work() -> None:
        (settings.home / "runs").touch()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    run_until_stopped(work)


def crashing(settings: Settings) -> None:
    """Fail at once."""
    raise RuntimeError("this service always crashes")


def requesting(settings: Settings) -> None:
    """Send a request to a URL with a token."""
    with httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200))) as client:
        client.get("https://example.com/secret-token/v1")


def looping(settings: Settings) -> None:
    """Run an event loop whose first step of work never ends."""

    async def serve() -> None:
        async def work() -> None:
            await every(1.0, lambda: time.sleep(1e6), "stuck")()

        await asyncio.gather(PROGRESS.beat(), work())

    asyncio.run(serve())
