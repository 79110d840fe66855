"""`make bench-tamper`: change a sealed log as a superuser in eight ways, and verify each time."""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, LiteralString
from uuid import UUID

import psycopg
import typer
from psycopg.rows import dict_row
from rich.console import Console
from rich.table import Table

from deploy.local.stack import up
from domain.audit.sealed_event import decode, seal
from domain.core.event_log import EventLog
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.event_rows import stream_rows
from infrastructure.postgres.store import open_log
from infrastructure.seals.archive import SealArchive
from infrastructure.settings import Settings
from services.sealer.sealer import Sealer
from services.sealer.verification import SealFindings, TamperKind, Trust, verify_seals
from tests.bench.aims import Verdict, conclude
from tests.bench.sealed_log import KEY, ORIGIN, PUBLIC, Connection, run_jobs
from tests.builders.history import History

SEAL_EVENTS, CHUNK_LEAVES = 200, 256
"""Smaller than the product's, so that a small log has many heads and chunks."""

JOBS = 60


@dataclass
class Log:
    """A sealed log of real jobs, as its attacker sees it."""

    store: Connection
    archive: SealArchive
    ids: list[int]
    chance: random.Random
    heads: list[int] = field(default_factory=list)  # last event of each head

    def run(self, statement: LiteralString, *values: object) -> None:
        """Execute a statement as the superuser."""
        self.store.execute(statement, values)

    def some_id(self) -> int:
        """Return the id of a random event."""
        return self.chance.choice(self.ids)


Located = Callable[[SealFindings], bool]
"""True if the findings name the changed rows, or the range that is promised."""


def names(kind: TamperKind, *ids: int) -> Located:
    """Return a check that the findings name exactly these events."""
    wanted = {(kind, id) for id in ids}
    return lambda found: {(each.kind, each.first) for each in found.differences} == wanted


def edit(log: Log) -> Located:
    """Change one byte of an event, or its aggregate, version or kind."""
    id = log.some_id()
    column = log.chance.choice(("state", "originator_id", "originator_version", "topic"))
    if column == "state":
        log.run(
            "UPDATE ecolink_events SET state = set_byte(state, %s %% length(state), "
            "get_byte(state, %s %% length(state)) # 1) WHERE notification_id = %s",
            *(log.chance.randrange(10**6),) * 2,
            id,
        )
    elif column == "originator_id":
        log.run(
            "UPDATE ecolink_events SET originator_id = gen_random_uuid() "
            "WHERE notification_id = %s",
            id,
        )
    elif column == "originator_version":
        log.run(
            "UPDATE ecolink_events SET originator_version = originator_version + 100000 "
            "WHERE notification_id = %s",
            id,
        )
    else:
        log.run("UPDATE ecolink_events SET topic = topic || 's' WHERE notification_id = %s", id)
    return names(TamperKind.CHANGED, id)


def delete(log: Log) -> Located:
    """Delete one to five events."""
    ids = log.chance.sample(log.ids, log.chance.randint(1, 5))
    log.run("DELETE FROM ecolink_events WHERE notification_id = ANY(%s)", ids)
    return names(TamperKind.DELETED, *ids)


def insert(log: Log) -> Located:
    """Insert a copy of an event before the first, or in a place that another one had."""
    id, place = log.some_id(), -log.chance.randint(0, 10**6)
    log.run(
        "INSERT INTO ecolink_events (originator_id, originator_version, topic, state, "
        "notification_id) SELECT originator_id, originator_version + 100000, topic, state, %s "
        "FROM ecolink_events WHERE notification_id = %s",
        *(place, id),
    )
    return names(TamperKind.INSERTED, place)


def swap(log: Log) -> Located:
    """Swap the places of two events."""
    first, second = log.chance.sample(log.ids, 2)
    renumber = "UPDATE ecolink_events SET notification_id = %s WHERE notification_id = %s"
    log.run(renumber, 10**9, first)
    log.run(renumber, first, second)
    log.run(renumber, second, 10**9)
    return names(TamperKind.CHANGED, first, second)


def truncate(log: Log) -> Located:
    """Delete the newest events."""
    ids = log.ids[-log.chance.randint(1, 90) :]
    log.run("DELETE FROM ecolink_events WHERE notification_id >= %s", ids[0])
    return names(TamperKind.DELETED, *ids)


def renumber(log: Log) -> Located:
    """Delete an event and close the gap, so that the numbers have no hole."""
    id = log.ids[-log.chance.randint(2, 90)]
    log.run("DELETE FROM ecolink_events WHERE notification_id = %s", id)
    log.run(
        "UPDATE ecolink_events SET notification_id = -notification_id WHERE notification_id > %s",
        id,
    )
    log.run(
        "UPDATE ecolink_events SET notification_id = -notification_id - 1 WHERE notification_id < 0"
    )
    last = log.ids[-1]
    return lambda found: (
        found.differences[0][:2] == (TamperKind.CHANGED, id)
        and found.differences[-1][:2] == (TamperKind.DELETED, last)
        and len(found.differences) == last - id + 1
    )


def remove_job(log: Log) -> Located:
    """Delete every event of a job, with its meters."""
    rows = log.store.execute(
        "SELECT DISTINCT originator_id FROM ecolink_events WHERE topic = 'JobApproved'"
    ).fetchall()
    job = log.chance.choice(sorted(row["originator_id"] for row in rows))
    removed = log.store.execute(
        "DELETE FROM ecolink_events WHERE originator_id = %s "
        "OR convert_from(state, 'UTF8')::jsonb->>'job_id' = %s RETURNING notification_id",
        [job, str(job)],
    ).fetchall()
    return names(TamperKind.DELETED, *(row["notification_id"] for row in removed))


def rewrite(log: Log) -> Located:
    """Change an event and write all leaves again, as one who can also write to the artifacts."""
    id = log.some_id()
    log.run("UPDATE ecolink_events SET topic = topic || 's' WHERE notification_id = %s", id)
    log.archive.put_leaves(0, decode(seal(stream_rows(log.store))))
    after = max((head for head in log.heads if head < id), default=0)
    until = min(head for head in log.heads if head >= id)
    return lambda found: (
        [each[:3] for each in found.differences] == [(TamperKind.RANGE, after + 1, until)]
    )


TAMPERINGS: tuple[Callable[[Log], Located], ...] = (
    *(edit, delete, insert, swap, truncate, renumber, remove_job, rewrite),
)


def sealed(log: EventLog, store: Connection, artifacts: Artifacts, seed: int, jobs: int) -> Log:
    """Run jobs, seal their events, and return the log."""
    run_jobs(log, jobs)
    archive = SealArchive(artifacts, CHUNK_LEAVES)
    sealer = Sealer(archive, ORIGIN, KEY, lambda: datetime.now(UTC), SEAL_EVENTS)
    while sealer.step(store):
        pass
    sealer.export()
    ids = [id for id, *_ in stream_rows(store)]
    heads = [head.last_event for head in archive.heads(PUBLIC)]
    return Log(store, archive, ids, random.Random(seed), heads)


def bench(
    tamperings: Annotated[int, typer.Option(min=8)] = 1000,
    clean: Annotated[int, typer.Option(min=1)] = 100,
    seed: int = 1,
) -> None:
    """Print how many changes of each kind are detected and located, and the false alarms."""
    console = Console()
    made, detected, located = Counter[str](), Counter[str](), Counter[str]()
    false_alarms = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, up(Settings(home=Path(folder)), {}) as stack:
        settings = stack.settings
        artifacts = Artifacts((Path(folder) / "seals").as_uri())
        assert settings.owner_database_url is not None
        with (
            open_log(settings) as events,
            psycopg.connect(settings.owner_database_url, row_factory=dict_row) as store,
        ):
            log = sealed(events, store, artifacts, seed, JOBS)
            store.execute("SET session_replication_role = replica")  # no trigger interferes
            store.commit()
            leaves = {ref: artifacts.get(ref) for ref in artifacts.list("seals/leaves")}
            for number in range(tamperings):
                tamper = TAMPERINGS[number % len(TAMPERINGS)]
                is_located = tamper(log)
                found = verify_seals(store, log.archive, Trust(PUBLIC))
                made[tamper.__name__] += 1
                detected[tamper.__name__] += bool(found.counts)
                located[tamper.__name__] += bool(found.counts) and is_located(found)
                store.rollback()
                if tamper is rewrite:
                    for ref, content in leaves.items():
                        artifacts.put(ref, content)
            for number in range(clean):
                History(events, UUID(int=10**6 + number)).open_account(1 + number)
                fresh = Sealer(log.archive, ORIGIN, KEY, lambda: datetime.now(UTC), SEAL_EVENTS)
                fresh.resume(store)
                fresh.step(store)
                fresh.export()
                false_alarms += bool(verify_seals(store, log.archive, Trust(PUBLIC)).counts)
                store.commit()
    table = Table(title=f"{len(log.ids)} events, {len(log.heads)} heads, seed {seed}")
    for column in ("change", "made", "detected", "located"):
        table.add_column(column, justify="left" if column == "change" else "right")
    for name in made:
        table.add_row(name, *(str(each[name]) for each in (made, detected, located)))
    console.print(table)
    console.print(f"{time.monotonic() - began:.0f} s")
    conclude(
        console,
        (
            Verdict(f"{detected.total()} detected", f"{tamperings}", detected == made),
            Verdict(f"{located.total()} located", f"{tamperings}", located == made),
            Verdict(f"{false_alarms} false alarms in {clean} logs", "0", false_alarms == 0),
        ),
    )


if __name__ == "__main__":
    typer.run(bench)
