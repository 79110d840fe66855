"""`make bench-scale`: speed of the control plane with many running jobs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console

from deploy.local.stack import up
from domain.capacity.gpu_pool import GpuPool
from domain.core.event_log import EventLog
from infrastructure.artifacts import Artifacts
from infrastructure.seal_archive import SealArchive
from infrastructure.settings import Settings
from infrastructure.store import open_log
from tests.bench.aims import Verdict, conclude
from tests.bench.scale_dbos import measure_dbos
from tests.bench.scale_jobs import (
    POOL_ID,
    Connection,
    Jobs,
    copy_events,
    open_evidence,
    settle_down,
    snapshot_pool,
)
from tests.bench.scale_shares import (
    Share,
    measure_appends,
    measure_audit,
    measure_folds,
    measure_relay,
    owner_of,
)
from tests.bench.scale_ticks import Ticks, measure_ticks
from tests.bench.seals import seconds

TICK_JOBS_PER_SECOND = 100_000 / 15
DBOS_FACTOR, DBOS_PROCESSES, DBOS_THREADS = 10, 2, 8
APPEND_SHARE, RELAY_SHARE, FOLD_SHARE, AUDIT_SHARE = 0.8, 0.8, 0.25, 0.5


def bench(
    jobs: Annotated[int, typer.Option(min=20, help="Running jobs.")] = 100_000,
    accounts: Annotated[int, typer.Option(min=1, help="Accounts of these jobs.")] = 10_000,
    workflows: Annotated[int, typer.Option(min=10, help="Workflows of DBOS.")] = 5_000,
) -> None:
    """Measure the ticker, appends, the relay, folds and the audit. Exits with 1 if one misses."""
    console, population = Console(highlight=False, soft_wrap=True), Jobs.of(jobs, accounts)
    with tempfile.TemporaryDirectory(prefix="ecolink-scale-") as folder:
        Path(folder).chmod(0o755)
        with up(Settings(home=Path(folder) / "home"), {}) as stack:
            verdicts = list(measure(console, stack.settings, population, workflows, Path(folder)))
    console.print()
    conclude(console, verdicts)


def measure(
    console: Console, settings: Settings, jobs: Jobs, workflows: int, folder: Path
) -> Iterator[Verdict]:
    """Print each measurement, and yield its verdict. The database and the bus must be empty."""
    with open_log(settings) as log, owner_of(settings) as owner:
        appends = _fill(console, settings, log, owner, jobs)
        yield _shown(console, "append of 500 events", "locked INSERT", appends, APPEND_SHARE)
        relay = measure_relay(settings, log)
        yield _shown(console, "relay", "pipelined publish", relay, RELAY_SHARE)
        fold, ledger = measure_folds(settings, log, owner)
        yield _shown(console, "fold, all projections", "SELECT", fold, FOLD_SHARE)
        yield _shown(console, "fold, ledger alone", "SELECT", ledger, FOLD_SHARE)
        open_evidence(owner)
        settle_down(owner)
        archive = SealArchive(Artifacts((folder / "seals").as_uri()))
        audited = measure_audit(settings, owner, archive)
        stages = ", ".join(f"{name} {taken:.1f} s" for name, taken in audited.stages.items())
        console.print(f"audit: {stages}; sealing before it: {audited.sealing_speed:,.0f} events/s")
        yield _shown(console, "audit", "SELECT", audited.share, AUDIT_SHARE)
        _show_pool(console, settings)
        ticks = measure_ticks(settings, owner, jobs.count, folder)
        yield _shown_ticks(console, ticks)
        dbos = measure_dbos(settings, workflows, DBOS_PROCESSES, DBOS_THREADS)
        console.print(
            f"DBOS: {dbos.workflows:,} workflows in {dbos.seconds:.1f} s, "
            f"{dbos.per_second:,.0f} job-minutes/s with {dbos.processes} processes"
        )
        factor = ticks.minutes_per_second / dbos.per_second
        yield Verdict(
            f"tick {factor:.1f} times the job-minutes of DBOS",
            f"{DBOS_FACTOR}",
            factor >= DBOS_FACTOR,
        )


def _fill(
    console: Console, settings: Settings, log: EventLog, owner: Connection, jobs: Jobs
) -> Share:
    """Write all events of the jobs. Return the speed of appends, which wrote the first of them."""
    began, before = time.perf_counter(), log.recorder.max_notification_id() or 0
    events = jobs.stored_events()
    appends = measure_appends(settings, log, events, 7 * jobs.count)
    copy_events(owner, events)
    with open_log(settings, takes_snapshots=True) as snapshotting:
        snapshot_pool(snapshotting)
    settle_down(owner)
    written = (log.recorder.max_notification_id() or 0) - before
    console.print(
        f"{jobs.count:,} running jobs of {jobs.accounts:,} accounts: {written:,} events, "
        f"written in {time.perf_counter() - began:.0f} s"
    )
    return appends


def _shown(console: Console, name: str, baseline: str, share: Share, aim: float) -> Verdict:
    """Print a speed and its baseline's. Return the verdict on its share."""
    console.print(
        f"{name}: {share.speed:,.0f} events/s; {baseline}: {share.baseline:,.0f} events/s"
    )
    return Verdict(f"{name}: {share.share:.3f} of {baseline}", f"{aim}", share.share >= aim)


def _show_pool(console: Console, settings: Settings) -> None:
    taken = []
    for _ in range(3):
        with open_log(settings) as log:
            log.recorder.max_notification_id()  # opens the connection
            taken.append(seconds(lambda log=log: log.load(GpuPool, POOL_ID)))
    console.print(f"cold GpuPool: {median(taken):.2f} s")


def _shown_ticks(console: Console, ticks: Ticks) -> Verdict:
    aim = ticks.jobs / TICK_JOBS_PER_SECOND
    console.print(
        f"billing's restart: {ticks.restart_seconds:.1f} s until its first tick is done\n"
        f"tick: {ticks.seconds:.2f} s for {ticks.jobs:,} jobs (median of {ticks.times}), "
        f"{ticks.minutes_per_second:,.0f} job-minutes/s, {ticks.events / ticks.seconds:,.0f} "
        f"events/s; {ticks.memory_mib:.0f} MiB, {ticks.cores:.2f} cores of Python and "
        f"{ticks.database_cores:.2f} of PostgreSQL"
    )
    return Verdict(
        f"tick of {ticks.jobs:,} jobs: {ticks.seconds:.2f} s", f"{aim:.2f} s", ticks.seconds <= aim
    )


if __name__ == "__main__":
    typer.run(bench)
