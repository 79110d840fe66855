"""`make bench-replay`: speed and memory of an audit's replays in a long log."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import psutil
import psycopg
import typer
from psycopg.rows import dict_row
from rich.console import Console

from deploy.local.stack import up
from domain.replay.past import Moment
from gateway.audit.schemas import LoggedEvent
from gateway.audit.service import Auditor
from infrastructure.postgres.log_reader import Selection
from infrastructure.postgres.store import connect, open_log
from infrastructure.settings import Settings
from tests.bench.aims import Verdict, conclude
from tests.bench.sealed_log import run_jobs
from tests.bench.seals import multiply, read, seconds
from tests.builders.history import History

JOBS = 60
GROWTH_MIB = 64
"""Maximum growth of the process while it replays the whole log."""

MIB = 1024**2


def bench(events: Annotated[int, typer.Option(min=10_000)] = 2_000_000) -> None:
    """Print the time of each command of an audit, and the growth of memory in a whole replay."""
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        with up(Settings(home=Path(folder) / "log"), {}) as stack:
            settings = stack.settings
            assert settings.owner_database_url is not None
            with open_log(settings) as log:
                run_jobs(log, JOBS)
                with psycopg.connect(settings.owner_database_url, row_factory=dict_row) as store:
                    multiply(store, events)
                    store.execute(
                        "SELECT setval('ecolink_events_notification_id_seq', "
                        "max(notification_id)) FROM ecolink_events"
                    )
                    store.execute("ANALYZE ecolink_events")
                job = History(log, uuid4(), uuid4())
                job.open_account(1_000_000)
                job.approve_job()
                job.allocate_segment(1)
                job.grant_lease(1)
                job.start_pod(1)
                job.bill(1, 61)
            with connect(settings) as store:
                growth = measure(console, Auditor(store), job)
                console.print(f"SELECT of all rows: {seconds(lambda: read(store)):.2f} s")
    conclude(
        console,
        [Verdict(f"growth {growth:.0f} MiB", f"{GROWTH_MIB} MiB", growth <= GROWTH_MIB)],
    )


def measure(console: Console, auditor: Auditor, job: History) -> float:
    """Print the time of each command. Return the growth of a replay of the whole log, in MiB."""
    found = list(auditor.replay(Selection(job_id=job.job_id)))
    minute = next(
        each for each in found if isinstance(each, LoggedEvent) and each.topic == "MinuteMetered"
    )
    approved = str(found[0].position)
    for name, command in {
        "replay of a job": lambda: list(auditor.replay(Selection(job_id=job.job_id))),
        "replay of an account": lambda: list(auditor.replay(Selection(job.account_id))),
        "show job": lambda: auditor.job(job.job_id, Moment()),
        "show account": lambda: auditor.account(job.account_id, Moment()),
        "why, of a new charge": lambda: auditor.why(str(minute.position)),
        "why, of a new approval": lambda: auditor.why(approved),
        "why, of the oldest event": lambda: auditor.why("1"),
    }.items():
        console.print(f"{name}: {seconds(command):.2f} s")
    process = psutil.Process()
    before, count, largest = process.memory_info().rss, 0, 0

    def replay() -> None:
        nonlocal count, largest
        for _ in auditor.replay(Selection()):
            count += 1
            if count % 10_000 == 0:
                largest = max(largest, process.memory_info().rss)

    duration = seconds(replay)
    console.print(f"replay of all {count:,} events: {count / duration:,.0f} events/s")
    return (largest - before) / MIB


if __name__ == "__main__":
    typer.run(bench)
