"""Work of roles for processes with several roles, each named as `module:callable`.

Each start appends a line to `<work>.starts` in the home.
"""

from __future__ import annotations

import asyncio
import threading
import time

from infrastructure.bus.service import run_until_stopped
from infrastructure.postgres.leadership import Leadership, leading
from infrastructure.postgres.store import open_pool
from infrastructure.process.progress import PROGRESS
from infrastructure.settings import Settings

FAILING = "tests.deploy.roles:failing"
STEADY = "tests.deploy.roles:steady"
FAILING_LEADER = "tests.deploy.roles:failing_leader"
STEADY_LEADER = "tests.deploy.roles:steady_leader"
GRACEFUL = "tests.deploy.roles:graceful"
HANGING = "tests.deploy.roles:hanging"
LOSING = "tests.deploy.roles:losing"


def _start(settings: Settings, work: str) -> None:
    with (settings.home / f"{work}.starts").open("a") as file:
        file.write(f"{settings.database_url}\n")


def failing(settings: Settings) -> None:
    """Fail at once."""
    _start(settings, "failing")
    raise RuntimeError("this role always fails")


def steady(settings: Settings) -> None:
    """Count in a file until the process stops."""
    _start(settings, "steady")

    async def count() -> None:
        number = 0
        while True:
            number += 1
            (settings.home / "count").write_text(str(number))
            await asyncio.sleep(0.01)

    run_until_stopped(count)


def failing_leader(settings: Settings) -> None:
    """Lead, use a pool, and fail. Write the number of threads and sessions before that."""
    with leading(settings, "relay"), open_pool(settings).connection() as connection:
        _start(settings, "failing")
        found = connection.execute(
            "SELECT count(*) AS sessions FROM pg_stat_activity WHERE datname = current_database()"
        ).fetchone()
        assert found is not None
        with (settings.home / "left").open("a") as file:
            file.write(f"{threading.active_count()} {found['sessions']}\n")
        raise RuntimeError("this role always fails")


def steady_leader(settings: Settings) -> None:
    """Lead until the process stops."""
    with leading(settings, "projector"):
        _start(settings, "steady")

        async def wait() -> None:
            while True:
                await asyncio.to_thread(time.sleep, 0.01)

        run_until_stopped(wait)


def graceful(settings: Settings) -> None:
    """Work until the process stops, then take a moment and write that all is done."""
    _start(settings, "graceful")

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.5)
            (settings.home / "done").touch()

    run_until_stopped(work)


def hanging(settings: Settings) -> None:
    """Hang in a step of work, once the graceful role works."""
    _await_start(settings, "graceful")
    with PROGRESS.step("stuck"):
        threading.Event().wait()


def losing(settings: Settings) -> None:
    """Lose the lead, once the graceful role works."""
    _await_start(settings, "graceful")
    unreachable = settings.model_copy(update={"database_url": "postgresql://127.0.0.1:1/none"})
    Leadership(unreachable, "relay").lost("a test")


def _await_start(settings: Settings, work: str) -> None:
    while not (settings.home / f"{work}.starts").exists():
        time.sleep(0.01)
