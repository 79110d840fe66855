"""The tick of billing: `make bench-scale` runs the real ticker in a process of its own.

`python -m tests.bench.scale_ticks` opens the ticker as the billing process does, without a bus. For
each line of its input it ticks once, and prints the seconds and the changed accounts as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from infrastructure.postgres.leadership import Leadership, leading
from infrastructure.postgres.store import open_log, open_pool
from infrastructure.process.clock import clock_of
from infrastructure.settings import Settings
from services.billing.app import CACHED_AGGREGATES
from services.billing.settlement import LeasePolicy
from services.billing.ticker import Ticker
from tests.bench.scale_jobs import MINUTE, Connection, events_after, head, make_due
from tests.bench.scale_processes import CpuShare, Process, Servers, memory_mib

MODULE = "tests.bench.scale_ticks"
MOST_SECONDS, MOST_TICKS = 60.0, 3
"""Ticks are repeated for a median until they took this long together."""


@dataclass(frozen=True)
class Ticks:
    """The measured ticks, in each of which all jobs have a minute due."""

    restart_seconds: float  # from the start of the process to the end of its first, idle tick
    seconds: float  # median
    times: int
    jobs: int
    events: int  # of a tick
    memory_mib: float
    cores: float  # that the ticker's process uses
    database_cores: float

    @property
    def minutes_per_second(self) -> float:
        """Billed job-minutes per second."""
        return self.jobs / self.seconds


def open_ticker(settings: Settings, leadership: Leadership) -> Ticker:
    """Return the ticker as the billing process opens it."""
    log = open_log(settings, cached=CACHED_AGGREGATES, takes_snapshots=True, leadership=leadership)
    return Ticker(log, clock_of(settings), open_pool(settings), LeasePolicy.of(settings))


def measure_ticks(settings: Settings, owner: Connection, jobs: int, folder: Path) -> Ticks:
    """Bill a minute of all jobs a few times. Raise AssertionError if a minute is not billed."""
    began = time.perf_counter()
    ticker = Process(settings, "ticker", ["-m", MODULE], folder)
    try:
        ticker.ask("idle tick")
        restart = time.perf_counter() - began
        seconds: list[float] = []
        python, database = CpuShare([ticker.process]), CpuShare(Servers(owner).postgres)
        first, billed = head(owner), events_after(owner, 0, MINUTE) // jobs
        while sum(seconds) < MOST_SECONDS and len(seconds) < MOST_TICKS:
            billed += 1
            make_due(owner, billed)
            seconds.append(_until_billed(ticker, owner, jobs))
        cores, database_cores = python.cores, database.cores
        events = events_after(owner, first)
        return Ticks(
            restart_seconds=restart,
            seconds=median(seconds),
            times=len(seconds),
            jobs=jobs,
            events=events // len(seconds),
            memory_mib=memory_mib([ticker.process]),
            cores=cores,
            database_cores=database_cores,
        )
    finally:
        ticker.stop()


def _until_billed(ticker: Process, owner: Connection, jobs: int) -> float:
    """Tick until the due minute of every job is billed. Return the seconds of the ticks."""
    before, seconds = head(owner), 0.0
    while True:
        ticked = json.loads(ticker.ask("tick"))
        seconds += ticked["seconds"]
        minutes = events_after(owner, before, MINUTE)
        if minutes == jobs:
            return seconds
        if not ticked["changed"] or minutes > jobs:
            raise AssertionError(f"The ticker billed {minutes} minutes of {jobs} jobs.")


def main() -> None:
    """Tick once for each line of the input."""
    settings = Settings()
    with leading(settings, "billing") as leadership:
        ticker = open_ticker(settings, leadership)
        for _ in sys.stdin:
            began = time.perf_counter()
            changed = ticker.tick()
            ticked = {"seconds": time.perf_counter() - began, "changed": changed}
            print(json.dumps(ticked), flush=True)


if __name__ == "__main__":
    main()
