"""How a service process lives: a broker, its durables, its background work, until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from faststream import FastStream
from faststream.nats import NatsBroker
from faststream.nats.security import NatsCredentials
from nats.errors import Error as NatsError

from infrastructure.bus import Durable, provision
from infrastructure.jetstream_pull import LingeringBroker
from infrastructure.progress import PROGRESS
from infrastructure.settings import Settings

PROVISION_SECONDS = 5.0

Work = Callable[[], Awaitable[None]]


def broker_of(settings: Settings, name: str) -> NatsBroker:
    """A broker that reconnects for ever."""
    assert settings.nats_url is not None
    logger = logging.getLogger("broker")
    logger.setLevel(logging.WARNING)
    return LingeringBroker(
        settings.nats_url,
        name=name,
        security=_security(settings),
        max_reconnect_attempts=-1,
        reconnect_time_wait=1,
        logger=logger,
        log_level=logging.DEBUG,
    )


def _security(settings: Settings) -> NatsCredentials | None:
    file = settings.nats_credentials
    return None if file is None else NatsCredentials(str(file))


def serve(broker: NatsBroker, durables: Sequence[Durable], work: Sequence[Work] = ()) -> None:
    """Run until SIGTERM: provision, consume, and keep each piece of background work going.

    Work that raises ends the process with that error; its supervisor starts it again.
    """
    asyncio.run(_serve(broker, tuple(durables), work))


async def _serve(broker: NatsBroker, durables: tuple[Durable, ...], work: Sequence[Work]) -> None:
    app = FastStream(broker, logger=logging.getLogger("service"))
    tasks: list[asyncio.Task[None]] = []
    failures: list[BaseException] = []

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            failures.append(error)
            app.exit()

    @app.on_startup
    async def prepare() -> None:
        client = await broker.connect()
        await provision(client.jetstream(), durables)

    @app.after_startup
    async def begin() -> None:
        for each in (PROGRESS.beat, lambda: _keep_provisioned(broker, durables), *work):
            task = asyncio.ensure_future(each())
            task.add_done_callback(ended)
            tasks.append(task)

    @app.on_shutdown
    async def end() -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    await app.run(log_level=logging.DEBUG)
    if failures:
        raise failures[0]


async def _keep_provisioned(broker: NatsBroker, durables: tuple[Durable, ...]) -> None:
    """A stream or consumer that somebody deleted comes back; effects keep their positions."""
    logger = logging.getLogger("bus")
    while True:
        await asyncio.sleep(PROVISION_SECONDS)
        try:
            client = await broker.connect()
            for change in await provision(client.jetstream(), durables):
                logger.warning("%s", change)
        except (NatsError, TimeoutError, OSError) as error:
            logger.info("cannot provision now: %s", error or type(error).__name__)


async def every(seconds: float, step: Callable[[], object], logger: logging.Logger) -> None:
    """Run a blocking step again and again in a thread; a failure is logged and tried again."""
    while True:
        try:
            with PROGRESS.step(logger.name):
                await asyncio.to_thread(step)
        except Exception:
            logger.exception("step failed; trying again")
        await asyncio.sleep(seconds)
