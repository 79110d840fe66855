"""A benchmark: the duration of a backup and of verified restores of a long log."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar
from uuid import UUID

import psycopg
import typer
from psycopg.rows import dict_row
from rich.console import Console

from deploy.local.stack import up
from domain.core.event_log import EventLog
from extensions.backup import creating, restoring
from extensions.backup.keys import read_keys
from extensions.backup.manifest import BackupManifest
from extensions.backup.point_in_time import Moment
from extensions.backup.restoring import Source
from extensions.backup.stages import Stages
from extensions.backup.target import BackupTarget
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.log_identity import log_identity
from infrastructure.postgres.store import connect, open_log, scalar
from infrastructure.seals.archive import SealArchive, make_key, origin_of
from infrastructure.settings import Settings
from infrastructure.training.measurements import add_evidence
from services.sealer.sealer import Sealer
from tests.bench.seals import multiply
from tests.builders.history import MINUTE_SECONDS, History

JOBS, MINUTES_OF_JOB, MINUTES_OF_SAVE = 3, 4_000, 400
"""Jobs of the log. The later events are copies of theirs, which no read model can fold."""

CACHED = 10_000
CUT = 9_000
"""Event to which the second restore goes. It rebuilds and replays the log before it."""

HEAD_EVENTS = 50_000
"""Events of a signed head. The benchmark does not measure sealing."""

MIB = 1024**2
BALANCE_MICROS = 10**12

T = TypeVar("T")


def run_jobs(settings: Settings, log: EventLog, jobs: int) -> None:
    """Record jobs that run for days. Nearly all events are billed minutes."""
    for number in range(jobs):
        history = History(log, UUID(int=2 * number + 1), UUID(int=2 * number + 2))
        if number == 0:
            history.open_pool(jobs)
        history.open_account(BALANCE_MICROS)
        history.approve_job()
        history.allocate_segment(1)
        history.grant_lease(1)
        history.start_pod(1)
        history.start_training(1)
        for minutes in range(MINUTES_OF_SAVE, MINUTES_OF_JOB + 1, MINUTES_OF_SAVE):
            history.extend_lease(1, MINUTES_OF_SAVE * MINUTE_SECONDS)
            history.bill(1, minutes * MINUTE_SECONDS)
        with connect(settings) as store:
            add_evidence(store, history.job_id, 1, MINUTES_OF_JOB * MINUTE_SECONDS)


def seal(settings: Settings) -> None:
    """Seal the whole log."""
    with connect(settings) as store:
        key, archive = make_key(settings.seal_key_file), SealArchive(Artifacts(settings.artifacts))
        origin, now = origin_of(log_identity(store)), lambda: datetime.now(UTC)
        sealer = Sealer(archive, origin, key, now, HEAD_EVENTS)
        while sealer.step(store):
            pass
        sealer.export()
        archive.put_public_key(sealer.log_key)


def bench(events: Annotated[int, typer.Option(min=10_000)] = 2_000_000) -> None:
    """Print the duration of each stage of two backups and of two restores."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target = BackupTarget(str(folder / "backups"), create=True)
        with up(Settings(home=folder / "home"), {}) as stack:
            settings = stack.settings
            with open_log(settings, cached=CACHED) as log:
                run_jobs(settings, log, JOBS)
            assert settings.owner_database_url is not None
            with psycopg.connect(settings.owner_database_url, row_factory=dict_row) as store:
                multiply(store, events)
            seal(settings)
            with connect(settings) as store:
                count = scalar(store, "SELECT count(*) FROM ecolink_events")

            def create(stages: Stages) -> BackupManifest:
                request = creating.Request(target, folder / "keys", datetime.now(UTC))
                return creating.create(settings, request, stages)

            made = timed(console, f"Backup of {count:,} events", create)
            again = timed(console, "Backup of the same log again", create)
            new = {each.ref for each in again.blobs} - {each.ref for each in made.blobs}
            console.print(f"{made.total_bytes / MIB:,.0f} MiB; new contents later: {len(new)}")
            timed(console, "Verification", lambda stages: creating.verify(target, made, stages))
        keys = read_keys(folder / "keys", made.id)
        for text, source in {
            "Restore without a replay": Source(target, made, keys, replays=False),
            f"Restore to event {CUT:,}": Source(target, made, keys, Moment(event=CUT)),
        }.items():
            home = Settings(home=folder / text)
            restore = partial(restoring.restore, home, source)
            found = timed(console, text, restore)
            console.print(f"{found.events:,} events, of which {found.sealed_events:,} are proven")


def timed(console: Console, text: str, work: Callable[[Stages], T]) -> T:
    """Run work, and print the duration of each of its stages."""
    stages = Stages()
    done = work(stages)
    console.print(f"{text}: {sum(stages.seconds.values()):.1f} s")
    for stage, seconds in stages.seconds.items():
        console.print(f"  {stage}: {seconds:.1f} s")
    return done


if __name__ == "__main__":
    typer.run(bench)
