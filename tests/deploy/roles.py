"""Work of roles for processes with several roles, each named as `module:callable`.

Each start appends a line to `<work>.starts` in the home.
"""

from __future__ import annotations

import asyncio
import threading
import time

from infrastructure.bus.service import run_until_stopped
from infrastructure.postgres.leadership import leading
from infrastructure.postgres.store import open_pool
from infrastructure.settings import Settings

FAILING = "tests.deploy.roles:failing"
STEADY = "tests.deploy.roles:steady"
FAILING_LEADER = "tests.deploy.roles:failing_leader"
STEADY_LEADER = "tests.deploy.roles:steady_leader"


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
