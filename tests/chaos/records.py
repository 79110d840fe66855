"""The raw rows, messages and files of a run, which the oracle judges. Nothing of the product's.

`read` needs the addresses of the servers. `dump` and `load` keep records as a file, so that a
violation can be studied after its run.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import nats
import psycopg
from nats.js.api import ConsumerConfig, DeliverPolicy
from psycopg import IsolationLevel
from psycopg.rows import DictRow, dict_row

from tests.chaos.facts import read_facts

Row = dict[str, Any]
Connection = psycopg.Connection[DictRow]

MEASURED_QUERY = """
SELECT job_id::text, segment, step FROM step_measurements
UNION ALL SELECT job_id::text, segment, step FROM evaluation_measurements
"""

EVENTS_QUERY = """
SELECT notification_id AS id, originator_id::text AS originator, originator_version AS version,
    topic, convert_from(state, 'UTF8') AS state
FROM ecolink_events ORDER BY notification_id
"""

TABLES = (
    *("accounts", "billing_ledger", "open_meters", "gpu_pools", "gpu_claims", "job_detail"),
    *("parked_events", "projection_positions", "ecolink_tracking", "leaderships", "tracked_runs"),
)


class Event(NamedTuple):
    """A row of the event log, with its state as JSON."""

    id: int
    originator: str
    version: int
    topic: str
    state: Row


@dataclass
class Records:
    """Everything that a run left behind."""

    events: list[Event] = field(default_factory=list)
    stream: list[Row] = field(default_factory=list)
    """Messages of the stream EVENTS, in order."""
    tables: dict[str, list[Row]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 hashes of the artifact files of jobs, exports and syntheses, by ref."""
    manifests: dict[str, list[Row]] = field(default_factory=dict)
    """Files that each manifest of a job or an export lists, by the ref of the manifest."""
    facts: dict[str, list[Row]] = field(default_factory=dict)
    """Facts of each trainer process, by `<job>-<segment>.<pid>`."""
    writes: list[Row] = field(default_factory=list)
    """Saves of leaders: name, epoch and notification IDs."""
    commands: list[Row] = field(default_factory=list)
    """Commands of the workload with their answers."""
    measured: list[Row] = field(default_factory=list)
    """Job, segment and step of each stored measurement."""
    tracked: dict[str, list[int]] = field(default_factory=dict)
    """Step of each line that the tracker has of a job, in the order of the lines."""
    losses: list[float] = field(default_factory=list)
    """Times at which the harness deleted reports, in seconds since the epoch."""
    unsettled: str = ""
    """Parts that had not settled at the deadline, or an empty text."""

    def of(self, *topics: str) -> Iterable[Event]:
        """Yield the events with these topics, in order."""
        return (each for each in self.events if each.topic in topics)

    def dump(self, path: Path) -> None:
        """Write the records as compressed JSON."""
        with gzip.open(path, "wt") as file:
            json.dump(asdict(self), file, default=str)

    @classmethod
    def load(cls, path: Path) -> Records:
        """Read records that `dump` wrote."""
        with gzip.open(path, "rt") as file:
            content = json.load(file)
        content["events"] = [Event(*each) for each in content["events"]]
        return cls(**content)


@dataclass(frozen=True)
class Place:
    """Where the records of a run are."""

    database_url: str
    nats_url: str
    nats_credentials: Path
    artifacts: Path
    control: Path


def read(place: Place, losses: list[float], unsettled: str) -> Records:
    """Read the records of a run whose processes are idle."""
    records = Records(losses=losses, unsettled=unsettled)
    with Connection.connect(place.database_url, row_factory=dict_row) as connection:
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        for row in connection.execute(EVENTS_QUERY):
            records.events.append(Event(**row | {"state": json.loads(row["state"])}))
        for table in TABLES:
            rows = connection.execute(f"SELECT * FROM {table}").fetchall()  # type: ignore[arg-type]
            records.tables[table] = [_plain(row) for row in rows]
        rows = connection.execute(MEASURED_QUERY).fetchall()
        records.measured = [_plain(row) for row in rows]
    records.stream = asyncio.run(_read_stream(place))
    records.files = _hashes(place.artifacts)
    for ref in records.files:
        if ref.endswith("/manifest.json"):
            content = json.loads((place.artifacts / ref).read_bytes())
            records.manifests[ref] = content["files"]
    for path in sorted((place.control / "facts").iterdir()):
        records.facts[path.stem] = list(read_facts(path))
    for path in sorted((place.control / "writes").iterdir()):
        records.writes += read_facts(path)
    if (commands := place.control / "commands.jsonl").exists():
        records.commands = list(read_facts(commands))
    return records


def _plain(row: Row) -> Row:
    known = (int, float, bool, str, list, dict, type(None))
    return {name: each if isinstance(each, known) else str(each) for name, each in row.items()}


async def _read_stream(place: Place) -> list[Row]:
    connection = await nats.connect(place.nats_url, user_credentials=str(place.nats_credentials))
    try:
        js = connection.jetstream()
        last = (await js.stream_info("EVENTS")).state.last_seq
        found: list[Row] = []
        if last == 0:
            return found
        config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL)
        subscription = await js.subscribe(
            "events.>", stream="EVENTS", ordered_consumer=True, config=config
        )
        while not found or found[-1]["sequence"] < last:
            message = await subscription.next_msg(timeout=10)
            content = json.loads(message.data)
            content["sequence"] = message.metadata.sequence.stream
            found.append(content)
        return found
    finally:
        await connection.close()


def _hashes(artifacts: Path) -> dict[str, str]:
    return {
        str(path.relative_to(artifacts)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("jobs", "exports", "syntheses")
        for path in artifacts.glob(f"{folder}/**/*")
        if path.is_file()
    }
