"""`make bench-rebuild`: time and memory of a rebuild of all read models, and of an audit."""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deploy.local.stack import up
from infrastructure.postgres.event_batches import event_batches
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from projections import PROJECTIONS
from projections.projection import apply_batch
from projections.rebuilding import rebuild
from services.projector.audit import audit
from tests.bench.aims import Verdict, conclude
from tests.bench.scale_jobs import Connection, copy_events, events_after, settle_down
from tests.bench.scale_shares import owner_of
from tests.bench.seals import seconds
from tests.bench.story_log import ACTIVE_ACCOUNTS, story_events

SMALL_LOG = 1_500
"""Events that are also applied one by one."""

AIM_EVENTS = 2_000_000
REBUILD_SECONDS, AUDIT_SECONDS = 600, 900
"""Aims for this many events."""

MEMORY_MIB = 1024


@dataclass(frozen=True)
class Use:
    """Time and memory of a piece of work in a process of its own."""

    seconds: float
    cpu_seconds: float
    memory_mib: float


def used(work: Callable[[Settings], object], settings: Settings) -> Use:
    """Run work in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_measured, work, settings).result()


def _measured(work: Callable[[Settings], object], settings: Settings) -> Use:
    taken = seconds(lambda: work(settings))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Use(taken, time.process_time(), memory)


def rebuild_all(settings: Settings) -> None:
    """Rebuild all read models."""
    assert settings.owner_database_url is not None
    rebuild(settings.owner_database_url, PROJECTIONS, lambda *_: None)


def audit_all(settings: Settings) -> None:
    """Replay the log and compare all rows. Raise AssertionError if any differs."""
    findings = audit(settings)
    assert not findings.differences, findings.differences[:3]


def fill(owner: Connection, events: int, active_accounts: int = ACTIVE_ACCOUNTS) -> int:
    """Replace the log. Return the number of its events. The read models do not change."""
    owner.execute("TRUNCATE ecolink_events")
    copy_events(owner, story_events(events, active_accounts))
    settle_down(owner)
    return events_after(owner, 0)


def apply_slowly(settings: Settings) -> None:
    """Apply each event in a transaction of its own, as an idle projector does."""
    with connect(settings) as connection, connect(settings) as reading:
        for batch in event_batches(reading):
            for each in batch:
                apply_batch(connection, PROJECTIONS, [each])


def bench(events: Annotated[int, typer.Option(min=SMALL_LOG)] = 2_000_000) -> None:
    """Print the time and the memory of a rebuild of all read models and of an audit."""
    console = Console(highlight=False, soft_wrap=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        up(Settings(home=Path(folder) / "home"), {}) as stack,
        owner_of(stack.settings) as owner,
    ):
        settings = stack.settings
        for projection in PROJECTIONS:
            for table in projection.tables:
                owner.execute(f"TRUNCATE {table}".encode())
        owner.execute("DELETE FROM projection_positions")
        small = fill(owner, SMALL_LOG, active_accounts=2)
        apply_slowly(settings)
        audit_all(settings)  # folds large batches, and compares
        console.print(f"{small:,} events that were applied one by one have the same rows")
        verdicts: list[Verdict] = []
        count = fill(owner, events)
        for name, work, aim in (
            ("rebuild of all read models", rebuild_all, REBUILD_SECONDS),
            ("audit", audit_all, AUDIT_SECONDS),
        ):
            use = used(work, settings)
            console.print(
                f"{name}: {count:,} events in {use.seconds:.1f} s, {count / use.seconds:,.0f} "
                f"events/s, {use.cpu_seconds:.1f} s of CPU time of Python, {use.memory_mib:.0f} MiB"
            )
            limit = aim * count / AIM_EVENTS
            met = use.seconds <= limit
            verdicts.append(Verdict(f"{name}: {use.seconds:.0f} s", f"{limit:.0f} s", met))
            met = use.memory_mib <= MEMORY_MIB
            verdicts.append(Verdict(f"{use.memory_mib:.0f} MiB", f"{MEMORY_MIB} MiB", met))
    conclude(console, verdicts)


if __name__ == "__main__":
    typer.run(bench)
