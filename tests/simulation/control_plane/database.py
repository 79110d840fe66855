"""The database besides the event log: SQLite in memory that runs the product's statements.

It has the read models that the services of the control plane use, the evidence of segments, and
parked events. It translates the PostgreSQL syntax of those statements, and rejects any other.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

import psycopg
from eventsourcing.persistence import Notification
from psycopg.rows import dict_row, scalar_row, tuple_row
from psycopg.types.json import Jsonb

from domain.core.aggregate import Event
from domain.core.event_log import EventLog
from domain.jobs import events
from domain.jobs.job import Job
from domain.jobs.lifecycle import JobStatus
from infrastructure.bus.consumer import recorded
from infrastructure.bus.event_handlers import PARKED_DDL
from projections.accounts import ACCOUNTS
from projections.billing_ledger import BILLING_LEDGER, LAST_POSTINGS
from projections.gpu_pools import ADD_CLAIMS, GPU_POOLS
from projections.job_detail import WAITING_FOR_GPU
from projections.open_meters import OPEN_METERS
from projections.projection import POSITIONS_DDL, Cursor, Projection, insert, one_by_one, update

ID, TIME = "\x01", "\x02"
"""First characters of stored IDs and times, which SQLite has no types for."""

EVIDENCE_DDL = """
CREATE TABLE IF NOT EXISTS segment_evidence (
    job_id uuid NOT NULL,
    segment integer NOT NULL,
    elapsed_seconds double precision NOT NULL,
    PRIMARY KEY (job_id, segment)
);
CREATE TABLE IF NOT EXISTS deployments (job_id uuid, status text);
CREATE TABLE IF NOT EXISTS ecolink_events (
    notification_id bigint PRIMARY KEY,
    originator_id uuid NOT NULL,
    originator_version bigint NOT NULL,
    topic text NOT NULL,
    state bytea NOT NULL,
    UNIQUE (originator_id, originator_version)
)
"""
"""`ecolink_events` is a copy of the log, for the statements that read it."""

DUE_DDL = """
CREATE TABLE IF NOT EXISTS job_detail (
    job_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    status text NOT NULL,
    phase text NOT NULL DEFAULT '',
    segment integer NOT NULL DEFAULT 0,
    approved_at timestamptz NOT NULL,
    relaunch_at timestamptz,
    expires_at timestamptz,
    expired boolean NOT NULL DEFAULT false,
    promoted boolean NOT NULL DEFAULT false,
    continued_job_id uuid
)
"""


def apply_due(cursor: Cursor, event: Event) -> None:
    """Apply an event to the columns of `job_detail` that find due work.

    The real table needs functions of PostgreSQL for JSON.
    """
    match event:
        case events.JobApproved():
            insert(
                cursor,
                "job_detail",
                job_id=event.originator_id,
                account_id=event.account_id,
                status=JobStatus.TRAINING,
                approved_at=event.timestamp,
                continued_job_id=event.plan.start.job_id if event.plan.start else None,
            )
        case events.EvaluationStarted():
            _change(cursor, event, status=JobStatus.EVALUATING)
        case events.EvaluationCompleted():
            _change(cursor, event, status=JobStatus.TRAINED_PENDING_REGISTER)
        case events.TrainingStarted() if event.step < event.total_steps:
            _change(cursor, event, status=JobStatus.TRAINING)
        case events.Registered():
            _change(cursor, event, status=JobStatus.REGISTERED)
        case events.RelaunchPostponed():
            _change(cursor, event, relaunch_at=event.until)
        case events.SegmentAllocated():
            _change(cursor, event, relaunch_at=None, segment=event.segment, phase="")
        case events.SegmentEnded():
            _change(cursor, event, phase=WAITING_FOR_GPU)
        case events.JobFailed():
            _change(cursor, event, status=JobStatus.FAILED)
        case events.JobPaused():
            _change(cursor, event, status=JobStatus.PAUSED, relaunch_at=None)
        case events.JobResumed():
            _change(cursor, event, status=JobStatus.TRAINING)
        case events.JobCancelled():
            expiry = {"relaunch_at": None, "expires_at": event.expires_at}
            _change(cursor, event, status=JobStatus.CANCELLED, **expiry)
        case events.AdapterPromoted():
            _change(cursor, event, promoted=True)
        case events.AdapterExpired():
            _change(cursor, event, expired=True)
        case _:
            pass


def _change(cursor: Cursor, event: Event, **columns: object) -> None:
    update(cursor, "job_detail", {"job_id": event.originator_id}, **columns)


DUE = Projection("job_detail", ("job_detail",), DUE_DDL, (Job,), one_by_one(apply_due))

SIMULATED = (ACCOUNTS, BILLING_LEDGER, GPU_POOLS, DUE, OPEN_METERS)
"""The projections of the simulation. All but the jobs' are the product's."""

PARK_BEHIND = "WITH first AS (SELECT replay FROM parked_events"
PARK_BEHIND_FIRST = (
    "SELECT replay FROM parked_events WHERE consumer = :consumer "
    "AND originator_id = :originator AND notification_id <= :id ORDER BY notification_id LIMIT 1"
)
PARK_BEHIND_THEN = (
    "INSERT INTO parked_events (consumer, notification_id, originator_id, topic, error, replay) "
    "VALUES (:consumer, :id, :originator, :topic, :error, :replay) ON CONFLICT DO NOTHING"
)
"""A statement of event handlers inserts in a CTE, which SQLite cannot do. These two do the same."""

REPLACED = {
    LAST_POSTINGS: "SELECT account_id AS id, position, balance_micros FROM billing_ledger AS each "
    "WHERE account_id IN (SELECT value FROM json_each(?)) AND position = "
    "(SELECT max(position) FROM billing_ledger WHERE account_id = each.account_id)",
    ADD_CLAIMS: "INSERT INTO gpu_claims SELECT pool_id, job_id, segment, count, state, "
    "(SELECT coalesce(max(position), 0) FROM gpu_claims AS each "
    "WHERE each.pool_id = added.pool_id) "
    "+ row_number() OVER (PARTITION BY pool_id ORDER BY n) FROM (SELECT "
    "typed(json_extract(value, '$.pool_id'), 'uuid') AS pool_id, "
    "typed(json_extract(value, '$.job_id'), 'uuid') AS job_id, "
    "json_extract(value, '$.segment') AS segment, json_extract(value, '$.count') AS count, "
    "json_extract(value, '$.state') AS state, key AS n FROM json_each(%s)) AS added",
}
"""Statements with a LATERAL join, which SQLite does not have."""

TRANSLATIONS = (
    (r"%\((\w+)\)s", r":\1"),
    (r"%[sb]", "?"),
    (r"^\s*SET TRANSACTION .*", "SELECT 1"),
    (r"::\w+(?: precision)?(?:\[\])?", ""),
    (r"(\?|:\w+|\w+) AT TIME ZONE 'UTC'", r"utc_day(\1)"),
    (
        r"unnest\(\?, \?\) AS (\w+) \((\w+), (\w+)\)",
        r"(SELECT one.value AS \2, other.value AS \3 FROM json_each(?) AS one "
        r"JOIN json_each(?) AS other ON one.key = other.key) AS \1",
    ),
    (
        r"SELECT \* FROM unnest\(\?, \?, \?\) ON CONFLICT",
        "SELECT one.value, two.value, three.value FROM json_each(?) AS one "
        "JOIN json_each(?) AS two ON two.key = one.key "
        "JOIN json_each(?) AS three ON three.key = one.key WHERE true ON CONFLICT",
    ),
    (
        r"unnest\((\?|:\w+)\) AS (\w+) \((\w+)\)",
        r"(SELECT value AS \3 FROM json_each(\1)) AS \2",
    ),
    (
        r"SELECT unnest\((\?|:\w+)\), 0 ON CONFLICT",
        r"SELECT value, 0 FROM json_each(\1) WHERE true ON CONFLICT",
    ),
    (r"\bposition\((\?|:\w+) IN (\w+)\)", r"instr(\2, \1)"),
    (r"<> ALL\((\?|:\w+)\)", r"NOT IN (SELECT value FROM json_each(\1))"),
    (r"= ANY\((\?|:\w+)\)", r"IN (SELECT value FROM json_each(\1))"),
    (r"\bSELECT FROM\b", "SELECT 1 FROM"),
    (r" FOR (UPDATE|SHARE)\b", ""),
    (r"DEFAULT clock_timestamp\(\)", "DEFAULT (clock_timestamp())"),
)

POPULATED = re.compile(
    r"INSERT INTO (?P<table>\w+)\s+SELECT \* FROM json_populate_recordset\(NULL::\w+, %s\)"
)
ROWS = re.compile(r"json_populate_recordset\(NULL::(?P<table>\w+), %s\)(?: AS (?P<name>\w+))?")
RECORDS = re.compile(r"json_to_recordset\(%s\) AS (?P<name>\w+) \((?P<columns>[^)]*)\)")
UNNAMED = re.compile(r"INSERT INTO (?P<table>\w+)(?: AS \w+)? VALUES \((?P<values>[^()]*)\)")


@cache
def translated(statement: str) -> str:
    """Return a statement of PostgreSQL in SQLite's syntax."""
    for pattern, replacement in TRANSLATIONS:
        statement = re.sub(pattern, replacement, statement)
    return statement


class NotSimulated(BaseException):
    """SQLite cannot run a statement. The simulation needs a translation."""


def _stored(value: object) -> object:
    match value:
        case UUID():
            return f"{ID}{value}"
        case datetime():
            return f"{TIME}{value.isoformat(timespec='microseconds')}"
        case bool():
            return int(value)
        case Jsonb():
            return json.dumps(value.obj, default=str)
        case list() | tuple():
            return json.dumps([_stored(each) for each in value])
        case str():
            return str(value)
        case _:
            return value


def _read(value: object) -> object:
    if isinstance(value, str) and value[:1] in (ID, TIME):
        return UUID(value[1:]) if value[0] == ID else datetime.fromisoformat(value[1:])
    return value


def _columns(columns: Iterable[Sequence[str]]) -> str:
    """Return the expressions that read columns, given with their types, from a JSON object."""
    return ", ".join(
        f"typed(json_extract(value, '$.{name}'), '{kind}') AS {name}" for name, kind in columns
    )


def _typed(value: Any, kind: str) -> object:
    """Return a value of JSON as a column of a type stores it."""
    if value is None:
        return None
    if kind == "uuid":
        return _stored(UUID(value))
    return _stored(datetime.fromisoformat(value)) if kind == "timestamptz" else value


class Database:
    """One SQLite database. `now` returns its time."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.sqlite = sqlite3.connect(":memory:", isolation_level=None)
        self._known: dict[str, str] = {}
        for name, arguments, call in (
            ("clock_timestamp", 0, lambda: _stored(now())),
            ("greatest", -1, max),
            ("least", -1, min),
            ("typed", 2, _typed),
            ("utc_day", 1, lambda text: text[1:11]),
        ):
            self.sqlite.create_function(name, arguments, call)
        for ddl in (POSITIONS_DDL, EVIDENCE_DDL, PARKED_DDL, *(each.ddl for each in SIMULATED)):
            self.sqlite.executescript(translated(ddl))

    def run(self, statement: str | bytes, values: Any = ()) -> list[dict[str, Any]]:
        """Run a statement of the product. Return its rows."""
        if isinstance(statement, bytes):
            statement = statement.decode()
        bound: Any = (
            {name: _stored(value) for name, value in values.items()}
            if isinstance(values, Mapping)
            else [_stored(value) for value in values]
        )
        try:
            if statement.startswith(PARK_BEHIND):
                return self._park_behind(bound)
            found = self.sqlite.execute(self._translated(statement), bound)
        except sqlite3.IntegrityError as error:
            raise psycopg.errors.UniqueViolation(str(error)) from error
        except sqlite3.Error as error:
            raise NotSimulated(f"{error}: {statement}") from error
        if found.description is None:
            return []
        names = [column[0] for column in found.description]
        return [dict(zip(names, map(_read, row), strict=True)) for row in found]

    def _translated(self, statement: str) -> str:
        """Translate a statement, and name the columns of an insert that gives the first ones."""
        if (known := self._known.get(statement)) is None:
            known = translated(self._with_records(REPLACED.get(statement, statement)))
            if (match := UNNAMED.match(known)) is not None:
                table, values = match["table"], match["values"].count(",") + 1
                info = self.sqlite.execute(f"PRAGMA table_info({table})").fetchall()
                names = ", ".join(column[1] for column in info[:values])
                known = known.replace(" VALUES", f" ({names}) VALUES", 1)
            self._known[statement] = known
        return known

    def _with_records(self, statement: str) -> str:
        """Replace the functions that turn a JSON array into rows."""
        if (match := POPULATED.search(statement)) is not None:
            columns = self._columns_of(match["table"])
            rows = f"INSERT INTO {match['table']} SELECT {columns} FROM json_each(%s) WHERE true"
            statement = statement.replace(match[0], rows)
        if (match := ROWS.search(statement)) is not None:
            columns, name = self._columns_of(match["table"]), match["name"] or "populated"
            rows = f"(SELECT {columns} FROM json_each(%s)) AS {name}"
            statement = statement.replace(match[0], rows)
        if (match := RECORDS.search(statement)) is not None:
            columns = _columns(each.split() for each in match["columns"].split(", "))
            rows = f"(SELECT {columns} FROM json_each(%s)) AS {match['name']}"
            statement = statement.replace(match[0], rows)
        return statement

    def _columns_of(self, table: str) -> str:
        """Return the expressions that read all columns of a table from a JSON object."""
        info = self.sqlite.execute(f"PRAGMA table_info({table})").fetchall()
        return _columns((column[1], column[2]) for column in info)

    def _park_behind(self, values: dict[str, Any]) -> list[dict[str, Any]]:
        row = self.sqlite.execute(PARK_BEHIND_FIRST, values).fetchone()
        if row is None:
            return []
        self.sqlite.execute(PARK_BEHIND_THEN, {**values, "replay": row[0]})
        return [{"replay": bool(row[0])}]

    def copy(self, rows: Iterable[Notification]) -> None:
        """Copy events that were saved in the log."""
        self.sqlite.executemany(
            "INSERT INTO ecolink_events VALUES (?, ?, ?, ?, ?)",
            [
                (row.id, _stored(row.originator_id), row.originator_version, row.topic, row.state)
                for row in rows
            ],
        )

    def rows(self, projection: Projection) -> list[tuple[object, ...]]:
        """Return all rows of a projection's tables, sorted."""
        found: list[tuple[object, ...]] = []
        for table in projection.tables:
            rows = self.sqlite.execute(f"SELECT * FROM {table}").fetchall()
            found += [(table, *row) for row in sorted(rows, key=repr)]
        return found

    def close(self) -> None:
        self.sqlite.close()


class Connection:
    """A process's connection, with the methods of psycopg that the product uses.

    `reach` is called before each statement and commit. It raises an error if the database is away
    or the process is killed.
    """

    def __init__(self, database: Database, reach: Callable[[str], None]) -> None:
        self._database = database
        self._reach = reach
        self._found: list[dict[str, Any]] = []

    def execute(self, statement: Any, values: Any = (), **options: Any) -> Connection:
        del options
        self._reach("inner statement" if self._database.sqlite.in_transaction else "statement")
        text = statement.decode() if isinstance(statement, bytes) else str(statement)
        self._found = self._database.run(text, values)
        return self

    def executemany(self, statement: Any, rows: Iterable[Any]) -> None:
        for values in rows:
            self.execute(statement, values)

    def fetchall(self) -> list[dict[str, Any]]:
        return self._found

    def fetchone(self) -> dict[str, Any] | None:
        return self._found[0] if self._found else None

    def __iter__(self) -> Any:
        return iter(self._found)

    @property
    def connection(self) -> Connection:
        """The connection of a cursor."""
        return self

    def cursor(self, row_factory: Any = dict_row, **options: Any) -> Connection:
        del options
        return CURSORS[row_factory](self._database, self._reach)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *error: object) -> None:
        """End the use of a cursor."""

    def pipeline(self) -> Any:
        return nullcontext()

    @contextmanager
    def transaction(self) -> Generator[None]:
        """Commit at the end of the block, or roll back after an error or a kill."""
        sqlite = self._database.sqlite
        sqlite.execute("BEGIN")
        try:
            yield
            self._reach("before commit")
        except BaseException:
            sqlite.execute("ROLLBACK")
            raise
        sqlite.execute("COMMIT")
        self._reach("after commit")


class Scalars(Connection):
    """A cursor that returns the first column of each row."""

    def fetchone(self) -> Any:
        row = super().fetchone()
        return None if row is None else next(iter(row.values()))

    def fetchall(self) -> Any:
        return [next(iter(row.values())) for row in super().fetchall()]


class Tuples(Connection):
    """A cursor that returns rows as tuples."""

    def fetchall(self) -> Any:
        return [tuple(row.values()) for row in super().fetchall()]


CURSORS: dict[Any, type[Connection]] = {
    dict_row: Connection,
    scalar_row: Scalars,
    tuple_row: Tuples,
}
"""Cursors by the row factory of psycopg."""


class Pool:
    """A pool of connections of one process."""

    def __init__(self, database: Database, reach: Callable[[str], None]) -> None:
        self._database = database
        self._reach = reach

    @contextmanager
    def connection(self) -> Generator[Connection]:
        self._reach("statement")
        yield Connection(self._database, self._reach)


def folded(log: EventLog, now: Callable[[], datetime]) -> Database:
    """Return a database with the projections of a whole log, decoded from its stored bytes."""
    database = Database(now)
    cursor: Any = Connection(database, lambda point: None)
    position = 0
    while batch := log.recorder.select_notifications(position, 500, inclusive_of_start=False):
        recent = [recorded(log, notification) for notification in batch]
        for projection in SIMULATED:
            projection.take(cursor, recent)
        position = batch[-1].id
    return database


def differing(one: Database, other: Database) -> Sequence[str]:
    """Return the names of the projections whose rows differ."""
    return [each.name for each in SIMULATED if one.rows(each) != other.rows(each)]
