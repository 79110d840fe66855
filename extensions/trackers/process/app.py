"""The trackers process, which sends the metrics of jobs to the experiment trackers of accounts.

It reads the stored measurements, so trainers need neither the network nor the keys of a tracker,
and nothing is lost while a tracker is unavailable. It does not use the bus.
"""

from __future__ import annotations

import asyncio

from psycopg_pool import ConnectionPool

from extensions.trackers.process.connection_checks import CheckQueue
from extensions.trackers.process.metrics import TRACKED_RUNS, TRACKER_FAILING_SECONDS
from extensions.trackers.process.runs import RunQueue
from extensions.trackers.process.servers import Servers
from extensions.trackers.runs import open_runs
from infrastructure.bus.service import Work, every, run_until_stopped
from infrastructure.http.dispatcher import Concurrency, Dispatcher
from infrastructure.postgres.leadership import leading
from infrastructure.postgres.store import Connection, open_log, open_pool
from infrastructure.process.clock import Clock, clock_of
from infrastructure.settings import Settings

NAME = "trackers"

MEASURE_SECONDS = 15.0
"""Time between two updates of the gauges."""

MOST_RUNS = Concurrency(receiver=4, account=8, process=64)
MOST_CHECKS = Concurrency(receiver=1, account=2, process=16)


def run(settings: Settings) -> None:
    """Wait until no other trackers process runs, then send metrics until SIGTERM."""
    with leading(settings, NAME):
        run_until_stopped(lambda: _run(settings))


async def _run(settings: Settings) -> None:
    clock = clock_of(settings)
    pool = open_pool(settings, max_size=16)
    log = open_log(settings, pool=pool)
    servers = Servers(settings)
    runs = RunQueue(log, pool, clock, servers.client_of, settings.public_url)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(Dispatcher(runs, MOST_RUNS, NAME).run())
            checks = CheckQueue(pool, clock, servers)
            tasks.create_task(Dispatcher(checks, MOST_CHECKS, NAME).run())
            measure = every(MEASURE_SECONDS, lambda: measure_runs(pool, clock), NAME)
            tasks.create_task(_work(measure))
    finally:
        await servers.aclose()


async def _work(work: Work) -> None:
    await work()


def measure_runs(pool: ConnectionPool[Connection], clock: Clock) -> None:
    """Set the gauges of the open runs."""
    with pool.connection() as connection:
        found, failing, seconds = open_runs(connection, clock.now())
    TRACKED_RUNS.labels("open").set(found)
    TRACKED_RUNS.labels("failing").set(failing)
    TRACKER_FAILING_SECONDS.set(seconds)
