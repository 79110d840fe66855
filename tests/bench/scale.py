"""`make bench-scale`: speed of the control plane with many running jobs."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.local.stack import up
from domain.capacity.gpu_pool import GpuPool
from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from domain.use_cases.accounts import EcoLink
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.store import open_log
from infrastructure.seals.archive import SealArchive
from infrastructure.settings import Settings
from tests.bench.aims import Verdict, conclude
from tests.bench.scale_dbos import measure_dbos
from tests.bench.scale_jobs import (
    POOL_ID,
    Connection,
    Jobs,
    copy_events,
    head,
    open_evidence,
    settle_down,
    snapshot_pool,
)
from tests.bench.scale_load import Load, measure_load, p99
from tests.bench.scale_reports import measure_reports
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
DBOS_FACTOR, DBOS_PROCESSES, DBOS_THREADS = 10, 2, 4
APPEND_SHARE, RELAY_SHARE, FOLD_SHARE, AUDIT_SHARE = 0.8, 0.8, 0.25, 0.5
LAG_SECONDS, PAGE_SECONDS = 60, 1
"""A metered minute, after which the next one is due, and the longest time for a page."""

EVENTS_OF_JOB = 9
COLD_LOADS = 3


def bench(
    jobs: Annotated[int, typer.Option(min=20, help="Running jobs.")] = 100_000,
    accounts: Annotated[int, typer.Option(min=1, help="Accounts of these jobs.")] = 10_000,
    minutes: Annotated[int, typer.Option(min=0, help="Billed minutes of each job before.")] = 0,
    workflows: Annotated[int, typer.Option(min=10, help="Workflows of DBOS.")] = 3_000,
    audit: Annotated[bool, typer.Option(help="Audit the log, which replays all of it.")] = True,
) -> None:
    """Measure how fast the platform bills, stores, relays, folds, audits and shows many jobs.

    Appends, the relay, folds and the audit are compared with plain I/O, and the ticker with DBOS.
    All of it is measured in one run on an embedded PostgreSQL and NATS. Exits with 1 if a figure
    misses its aim. The aim for the tick is proportional to the jobs.
    """
    console = Console(highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="ecolink-scale-") as folder:
        Path(folder).chmod(0o755)
        settings = Settings(home=Path(folder) / "home", warm_trainers=0)
        with up(settings, {}) as stack, open_log(stack.settings) as log:
            with owner_of(stack.settings) as owner:
                population = Jobs.of(jobs, accounts, minutes)
                run = Run(console, stack.settings, log, owner, population)
                verdicts = list(run.store())
                if audit:
                    verdicts += run.audit()
                verdicts += [*run.platform(), *run.tick(workflows)]
    console.print()
    conclude(console, verdicts)


@dataclass(frozen=True)
class Run:
    """The measurements, each of which prints its figures and returns its verdicts.

    The database and the bus must be empty. `store` comes first, because it writes the jobs.
    """

    console: Console
    settings: Settings
    log: EventLog
    owner: Connection
    jobs: Jobs

    @property
    def folder(self) -> Path:
        """Folder of logs and seals."""
        return self.settings.home.resolve()

    def store(self) -> Iterator[Verdict]:
        """Write the jobs, and relay and fold their events."""
        yield self._share("append of 500 events", "locked INSERT", self._write(), APPEND_SHARE)
        relay = measure_relay(self.settings, self.log)
        yield self._share("relay", "pipelined publish", relay, RELAY_SHARE)
        fold, ledger = measure_folds(self.settings, self.log, self.owner)
        yield self._share("fold of all projections", "SELECT", fold, FOLD_SHARE)
        yield self._share("fold of the ledger", "SELECT", ledger, FOLD_SHARE)
        open_evidence(self.owner, self.jobs.minutes)
        settle_down(self.owner)
        taken: list[float] = []
        for _ in range(COLD_LOADS):
            with open_log(self.settings) as log:
                log.recorder.max_notification_id()  # opens the connection
                taken.append(seconds(lambda log=log: log.load(GpuPool, POOL_ID)))
        self.console.print(f"cold GpuPool with {self.jobs.count:,} jobs: {median(taken):.2f} s")

    def audit(self) -> Iterator[Verdict]:
        """Seal the log and audit it. Nothing may be appended since `store`."""
        archive = SealArchive(Artifacts((self.folder / "bench-seals").as_uri()))
        audit = measure_audit(self.settings, self.owner, archive)
        stages = ", ".join(f"{name} {taken:.1f} s" for name, taken in audit.stages.items())
        self.console.print(f"sealing: {audit.sealing_speed:,.0f} events/s; audit: {stages}")
        yield self._share("audit", "SELECT", audit.share, AUDIT_SHARE)

    def _write(self) -> Share:
        """Write all events of the jobs. Return the speed of appends, which write the first."""
        began, before = time.perf_counter(), head(self.owner)
        events = self.jobs.stored_events()
        appends = measure_appends(self.settings, self.log, events, EVENTS_OF_JOB * self.jobs.count)
        copy_events(self.owner, events)
        with because(Cause("service:bench", "write", datetime.now(UTC))):
            EcoLink(self.log).issue_key(self.jobs.account_id(0))
            with open_log(self.settings, takes_snapshots=True) as snapshotting:
                snapshot_pool(snapshotting)
        settle_down(self.owner)
        self.console.print(
            f"{self.jobs.count:,} running jobs of {self.jobs.accounts:,} accounts: "
            f"{head(self.owner) - before:,} events, written in {time.perf_counter() - began:.0f} s"
        )
        return appends

    def _share(self, name: str, baseline: str, share: Share, aim: float) -> Verdict:
        self.console.print(
            f"{name}: {share.speed:,.0f} events/s; {baseline}: {share.baseline:,.0f} events/s"
        )
        return Verdict(f"{name}: {share.share:.3f} of {baseline}", f"{aim}", share.share >= aim)

    def platform(self) -> Iterator[Verdict]:
        """Bill a minute with all processes running, then send reports of trainers."""
        load = measure_load(self.settings, self.owner, self.jobs, self.folder)
        self._show_tables(load)
        busy, idle = p99(load.busy_pages), p99(load.idle_pages)
        billed = "not by the end" if load.billed_seconds is None else f"{load.billed_seconds:.1f} s"
        stored = ", ".join(f"{name} {size:,.0f}" for name, size in load.bytes_of_minute.items())
        self.console.print(
            f"a minute of all jobs beside all processes: billed after {billed}, "
            f"{load.events:,} events\n"
            f"bytes for each job-minute: {stored}\n"
            f"job page: p99 of {len(load.busy_pages)} requests {1000 * busy:.0f} ms, "
            f"of {len(load.idle_pages)} before the minute {1000 * idle:.0f} ms"
        )
        lag = load.caught_up_seconds
        yield Verdict(
            f"all consumers caught up: {lag:.1f} s", f"{LAG_SECONDS} s", lag <= LAG_SECONDS
        )
        yield Verdict(
            f"p99 of the job page: {busy:.2f} s", f"{PAGE_SECONDS} s", busy <= PAGE_SECONDS
        )
        reports = measure_reports(self.settings, self.owner, self.jobs, self.folder)
        self.console.print(
            f"reports of {reports.trainers:,} trainers: the bus stores {reports.bus:,.0f}/s, "
            f"billing {reports.billing:,.0f}/s; the scheduler reads {reports.scheduler:,.0f}/s "
            f"and polls {reports.polls:,.0f} pods/s"
        )
        for name, cpu in reports.cpu_ms.items():
            memory = reports.memory_mib[name]
            self.console.print(f"{name}: {cpu:.2f} ms of CPU time for a report, {memory:.0f} MiB")

    def _show_tables(self, load: Load) -> None:
        lags = Table("consumer", "most events behind", "caught up after")
        for name, lag in sorted(load.lags.items(), key=lambda each: each[1].seconds or math.inf):
            caught_up = "not by the end" if lag.seconds is None else f"{lag.seconds:.1f} s"
            lags.add_row(name, f"{lag.most:,}", caught_up)
        uses = Table("process", "cores", "CPU ms for each job-minute", "MiB")
        for name, cores in load.cores.items():
            cpu, memory = f"{load.cpu_ms[name]:.2f}", f"{load.memory_mib[name]:,.0f}"
            uses.add_row(name, f"{cores:.2f}", cpu, memory)
        self.console.print(lags, uses)

    def tick(self, workflows: int) -> Iterator[Verdict]:
        """Bill minutes with the ticker alone, then with workflows of DBOS."""
        ticks = measure_ticks(self.settings, self.owner, self.jobs.count, self.folder)
        aim = self.jobs.count / TICK_JOBS_PER_SECOND
        self.console.print(_described(ticks))
        yield Verdict(
            f"tick of {ticks.jobs:,} jobs: {ticks.seconds:.2f} s",
            f"{aim:.2f} s",
            ticks.seconds <= aim,
        )
        dbos = measure_dbos(self.settings, workflows, DBOS_PROCESSES, DBOS_THREADS)
        self.console.print(
            f"DBOS: {dbos.workflows:,} workflows in {dbos.seconds:.1f} s, "
            f"{dbos.per_second:,.0f} job-minutes/s with {dbos.processes} processes"
        )
        factor = ticks.minutes_per_second / dbos.per_second
        met = factor >= DBOS_FACTOR
        yield Verdict(f"tick {factor:.1f} times as fast as DBOS", f"{DBOS_FACTOR}", met)


def _described(ticks: Ticks) -> str:
    return (
        f"billing's restart: {ticks.restart_seconds:.1f} s to the end of its first tick\n"
        f"tick: {ticks.seconds:.2f} s for {ticks.jobs:,} jobs (median of {ticks.times}), "
        f"{ticks.minutes_per_second:,.0f} job-minutes/s, {ticks.events / ticks.seconds:,.0f} "
        f"events/s; {ticks.memory_mib:.0f} MiB, {ticks.cores:.2f} cores of Python and "
        f"{ticks.database_cores:.2f} of PostgreSQL"
    )


if __name__ == "__main__":
    typer.run(bench)
