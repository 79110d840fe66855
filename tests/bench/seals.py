"""`make bench-seals`: speed of sealing and verification, and their effect on appends."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated
from uuid import UUID

import psutil
import psycopg
import typer
from psycopg.rows import dict_row, tuple_row
from rich.console import Console

from deploy.local.stack import Stack, up
from deploy.processes import PROCESSES
from domain.audit.sealed_event import StoredRow
from infrastructure.artifacts.store import Artifacts
from infrastructure.bus.service import broker_of
from infrastructure.bus.streams import provision
from infrastructure.postgres.event_rows import COLUMNS, FETCHED_ROWS, read_rows, stream_rows
from infrastructure.postgres.log_identity import log_identity
from infrastructure.postgres.store import open_log
from infrastructure.seals.archive import SealArchive
from infrastructure.seals.proofs import SealStatus, evidence_of
from infrastructure.settings import Settings
from services.relay.publisher import Publisher
from services.sealer.sealer import Sealer
from services.sealer.verification import Trust, verify_seals
from tests.bench.aims import Verdict, conclude
from tests.bench.sealed_log import KEY, ORIGIN, PUBLIC, Connection, run_jobs
from tests.builders.history import History

JOBS = 60
RELAYED_EVENTS = 20_000
APPENDS = 150
"""Commits of one event, in each of the runs with and without the sealer."""

PROVEN_EVENTS = 5


def seconds(work: Callable[[], object]) -> float:
    """Return the duration of a call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def multiply(store: Connection, events: int) -> None:
    """Add copies of the log's events, as other aggregates', until it has this many."""
    store.execute("SET session_replication_role = replica")  # no trigger interferes
    store.execute(
        "INSERT INTO ecolink_events (originator_id, originator_version, topic, state, "
        "notification_id) SELECT gen_random_uuid(), originator_version, topic, state, "
        "last + row_number() OVER () FROM ecolink_events, "
        "generate_series(1, %s / (SELECT count(*) FROM ecolink_events) + 1), "
        "(SELECT max(notification_id) AS last, count(*) AS count FROM ecolink_events) AS log "
        "LIMIT greatest(0, %s - (SELECT count(*) FROM ecolink_events))",
        [events, events],
    )
    store.commit()


def read(store: Connection) -> None:
    """Read all columns of all events in order with a server-side cursor."""
    with (
        store.transaction(),
        store.cursor("events", binary=True, row_factory=tuple_row) as cursor,
    ):
        cursor.itersize = FETCHED_ROWS
        cursor.execute(f"SELECT {COLUMNS} FROM ecolink_events ORDER BY notification_id")
        for _ in cursor:
            pass


def stream(store: Connection) -> None:
    """Read the same in the faster way of the verification, and do nothing with it."""
    for _ in stream_rows(store):
        pass


def seal_all(store: Connection, archive: SealArchive) -> None:
    """Seal the whole log, with a head for each 1,000 events."""
    sealer = Sealer(archive, ORIGIN, KEY, lambda: datetime.now(UTC))
    while sealer.step(store):
        pass
    sealer.export()


def publish_all(settings: Settings, store: Connection) -> None:
    """Publish the whole log to JetStream, as the relay does."""

    async def publish() -> None:
        client = await broker_of(settings, "relay").connect()
        await provision(client.jetstream(), ())
        with open_log(settings) as log:
            await Publisher(log, client, log_identity(store)).publish_new()
        await client.close()

    asyncio.run(publish())


def append_ratio(stack: Stack, pairs: int) -> float:
    """Return the throughput of appends with a running sealer, relative to that without it."""
    (sealer,) = (
        each
        for each in psutil.Process(stack.supervisor.pid).children(recursive=True)
        if "services.sealer.app:run" in " ".join(each.cmdline())
    )
    ratios: list[float] = []
    with open_log(stack.settings) as log:

        def append(run: int) -> Callable[[], None]:
            def commits() -> None:
                for number in range(APPENDS):
                    account_id = UUID(int=10**9 + run * APPENDS + number)
                    History(log, account_id).open_account(1_000_000)

            return commits

        append(0)()
        for pair in range(pairs):
            with_it = seconds(append(2 * pair + 1))
            sealer.send_signal(signal.SIGSTOP)
            try:
                ratios.append(seconds(append(2 * pair + 2)) / with_it)
            finally:
                sealer.send_signal(signal.SIGCONT)
    return median(ratios)


def bench(
    events: Annotated[int, typer.Option(min=RELAYED_EVENTS)] = 2_000_000,
    runs: Annotated[int, typer.Option(min=1)] = 3,
    pairs: Annotated[int, typer.Option(min=1)] = 15,
) -> None:
    """Print the speed of sealing, of the relay, of verification and of a raw SELECT."""
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        services = {"sealer": PROCESSES["sealer"]}
        with up(Settings(home=Path(folder) / "append"), services) as stack:
            appends = append_ratio(stack, pairs)
        with up(Settings(home=Path(folder) / "log"), {}) as stack:
            settings = stack.settings
            assert settings.owner_database_url is not None
            with psycopg.connect(settings.owner_database_url, row_factory=dict_row) as store:
                with open_log(settings) as log:
                    run_jobs(log, JOBS)
                multiply(store, RELAYED_EVENTS)
                relayed = RELAYED_EVENTS / seconds(lambda: publish_all(settings, store))
                archive = SealArchive(Artifacts((Path(folder) / "few").as_uri()))
                sealed = RELAYED_EVENTS / seconds(lambda: seal_all(store, archive))
                multiply(store, events)
                archive = SealArchive(Artifacts((Path(folder) / "seals").as_uri()))
                seal_all(store, archive)
                selects, streams, verifications = [], [], []
                for _ in range(runs):
                    selects.append(seconds(lambda: read(store)))
                    streams.append(seconds(lambda: stream(store)))
                    verifications.append(seconds(lambda: verify(store, archive, events)))
                archive.put_public_key(PUBLIC)
                places = [events * nth // PROVEN_EVENTS for nth in range(PROVEN_EVENTS)]
                proofs = [
                    seconds(partial(prove, row, archive)) for row in rows_after(store, places)
                ]
    cursors = median(a / b for a, b in zip(selects, verifications, strict=True))
    chunks = median(a / b for a, b in zip(streams, verifications, strict=True))
    console.print(
        f"{events:,} events; SELECT with a server-side cursor {events / median(selects):,.0f}/s, "
        f"streamed {events / median(streams):,.0f}/s, "
        f"verification {events / median(verifications):,.0f}/s, "
        f"sealing {sealed:,.0f}/s, relay {relayed:,.0f}/s, "
        f"proof of an event {median(proofs):.3f} s"
    )
    conclude(
        console,
        (
            Verdict(
                f"sealing {sealed / relayed:.1f} times the relay's speed", "1", sealed > relayed
            ),
            Verdict(f"appends {appends:.3f} of those without a sealer", "0.97", appends >= 0.97),
            Verdict(f"verification {cursors:.2f} of the server-side cursor", "0.5", cursors >= 0.5),
            Verdict(f"verification {chunks:.2f} of the streamed SELECT", "0.5", chunks >= 0.5),
        ),
    )


def verify(store: Connection, archive: SealArchive, events: int) -> None:
    """Verify the log. Raise AssertionError unless all events are as sealed."""
    found = verify_seals(store, archive, Trust(PUBLIC))
    assert (found.events, found.counts) == (events, {})


def rows_after(store: Connection, places: list[int]) -> list[StoredRow]:
    """Return the first event after each notification ID."""
    return [row for place in places for row in read_rows(store, place, 1)]


def prove(row: StoredRow, archive: SealArchive) -> None:
    """Prove an event. Raise AssertionError without a valid proof."""
    assert evidence_of(row, archive).status is SealStatus.PROVEN


if __name__ == "__main__":
    typer.run(bench)
