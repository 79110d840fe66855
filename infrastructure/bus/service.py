"""The main loop of a service process: broker, durable consumers and background work."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from ssl import SSLContext
from typing import Any

from faststream import FastStream
from faststream.nats.security import NatsCredentials, NatsSecurity
from faststream.security import BaseSecurity
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from infrastructure.bus.metrics import bus_metrics
from infrastructure.bus.pull import LongPollingBroker
from infrastructure.bus.streams import (
    Durable,
    credentials_of,
    jetstream_api,
    provision_consumers,
    servers,
)
from infrastructure.bus.tls import nats_authority, tls_context, tls_problem
from infrastructure.process.activity import activity
from infrastructure.process.progress import PROGRESS
from infrastructure.process.role import current_role
from infrastructure.settings import Settings

PROVISION_SECONDS = 10.0

ELECTION_SECONDS, ELECTION_PAUSE_SECONDS = 30.0, 0.5
"""Seconds for which a starting service waits for a leader of the bus, and between attempts."""

CANCEL_SECONDS = 5.0
"""Seconds after which a task that has not ended is cancelled again."""

Work = Callable[[], Awaitable[None]]


def broker_of(settings: Settings, name: str) -> LongPollingBroker:
    """Return a broker that reconnects without limit.

    `name` identifies it to the server, and names its user if the settings have several.
    """
    assert settings.nats_url is not None
    file, logger = credentials_of(settings, name), logging.getLogger("broker")
    measures = settings.metrics_port is not None
    logger.setLevel(logging.WARNING)
    api = jetstream_api(file)
    context = tls_context(settings.nats_url, nats_authority(settings))
    broker = LongPollingBroker(
        servers(settings.nats_url),
        name=name,
        security=_security(file, context),
        error_cb=_explain,
        middlewares=[bus_metrics()] if measures else [],
        max_reconnect_attempts=-1,
        reconnect_time_wait=1,
        logger=logger,
        log_level=logging.DEBUG,
        js_options={"prefix": api},
    )
    broker.api = api
    return broker


def _security(credentials: Path | None, context: SSLContext | None) -> BaseSecurity | None:
    if credentials is not None:
        return NatsCredentials(str(credentials), ssl_context=context, use_ssl=context is not None)
    return None if context is None else NatsSecurity(ssl_context=context, use_ssl=True)


async def _explain(error: Exception) -> None:
    """Log what to do if TLS to NATS fails. The broker tries again without end."""
    if (problem := tls_problem(error)) is not None:
        logging.getLogger("bus").error("%s", problem)


@dataclass(frozen=True)
class Provisioned:
    """The durable consumers that a service creates and keeps up to date."""

    broker: LongPollingBroker
    durables: tuple[Durable, ...]

    async def provision(self) -> list[str]:
        """Create or update them. Return one line for each change. Raise StreamMissing."""
        try:
            return await provision_consumers(await self.broker.jetstream(), self.durables)
        except NotFoundError as error:
            lacking = " or ".join(sorted({each.stream for each in self.durables}))
            raise StreamMissing(
                f"NATS lacks the stream {lacking}. Run `python -m deploy.migrate`."
            ) from error


class StreamMissing(NatsError):
    """A stream, which only the migration creates, does not exist."""


def serve(
    broker: LongPollingBroker, durables: Sequence[Durable], work: Sequence[Work] = ()
) -> None:
    """Provision the durables, consume them, and run the background work until SIGTERM.

    If work raises an error, the process ends with it, and the supervisor restarts the process.
    """
    asyncio.run(_serve(Provisioned(broker, tuple(durables)), work))


def run_until_stopped(work: Work) -> None:
    """Run the work of a process without a broker until SIGTERM, which cancels it.

    If work raises, the process ends with that error, and its supervisor restarts it.
    """
    asyncio.run(_run_until_stopped(work))


async def _run_until_stopped(work: Work) -> None:
    tasks = [asyncio.ensure_future(each()) for each in (PROGRESS.beat, work, stop_requested)]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await _cancel(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()  # raises the task's error


async def stop_requested() -> None:
    """Wait until the role of this thread must stop or, in a process with one role, for SIGTERM."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    role = current_role()
    if role is None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await stop.wait()
        return
    cancel = role.on_stop(partial(loop.call_soon_threadsafe, stop.set))
    try:
        await stop.wait()
    finally:
        cancel()


async def _cancel(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel tasks, and wait until they have ended.

    Cancel them repeatedly, because `asyncio.wait_for` loses a cancellation that arrives together
    with the result (before Python 3.12).
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=CANCEL_SECONDS)


async def _serve(provisioned: Provisioned, work: Sequence[Work]) -> None:
    app = FastStream(provisioned.broker, logger=logging.getLogger("service"))
    tasks: list[asyncio.Task[None]] = []
    failures: list[BaseException] = []
    stop = asyncio.Event()

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            failures.append(error)
            stop.set()

    @app.on_startup
    async def prepare() -> None:
        await provision_patiently(provisioned.provision)

    @app.after_startup
    async def begin() -> None:
        for each in (PROGRESS.beat, partial(_keep_provisioned, provisioned), *work):
            task = asyncio.ensure_future(each())
            task.add_done_callback(ended)
            tasks.append(task)

    @app.on_shutdown
    async def end() -> None:
        await _cancel(tasks)

    # FastStream's own `run` handles signals, which only the main thread can, and polls for them.
    starting = asyncio.create_task(app.start())
    starting.add_done_callback(ended)
    waiting = asyncio.create_task(stop_requested())
    waiting.add_done_callback(lambda _: stop.set())
    await stop.wait()
    await _cancel([starting, waiting])
    await app.stop()
    if failures:
        raise failures[0]


async def provision_patiently(step: Callable[[], Awaitable[object]]) -> None:
    """Provision, with retries, because a cluster answers nothing while it elects a leader."""
    until = time.monotonic() + ELECTION_SECONDS
    while True:
        try:
            await step()
        except (NatsError, TimeoutError, OSError) as error:
            if time.monotonic() > until:
                raise
            logging.getLogger("bus").info("%s; retrying", error or type(error).__name__)
            await asyncio.sleep(ELECTION_PAUSE_SECONDS)
        else:
            return


async def _keep_provisioned(provisioned: Provisioned) -> None:
    """Recreate deleted consumers. The effects store the positions."""
    logger = logging.getLogger("bus")
    while True:
        await asyncio.sleep(PROVISION_SECONDS)
        try:
            for change in await provisioned.provision():
                logger.warning("%s", change)
        except (NatsError, TimeoutError, OSError) as error:
            logger.info("cannot provision now: %s", error or type(error).__name__)


def after(seconds: float, work: Work) -> Work:
    """Return work that begins after a pause."""

    async def run() -> None:
        await asyncio.sleep(seconds)
        await work()

    return run


def every(
    seconds: float, step: Callable[[], object], name: str, idle_seconds: float | None = None
) -> Work:
    """Return work that runs a blocking step in a thread, with pauses of `seconds`.

    While the consumers of this event loop receive no event, the pauses take `idle_seconds`, if
    given. If the step fails, the work logs the error under `name` and continues after the pause.
    """

    async def run() -> None:
        while True:
            try:
                with PROGRESS.step(name):
                    await asyncio.to_thread(step)
            except Exception:
                logging.getLogger(name).exception("step failed; retrying")
            await activity().pause(seconds, idle_seconds or seconds)

    return run
