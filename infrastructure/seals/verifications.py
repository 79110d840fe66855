"""Verifications of the event log that auditors started on a page, with their progress and reports.

They are not in the event log, because they change nothing, and old ones are deleted. The process of
a verification holds an advisory lock for its life, and writes its row only while it holds the lock.
So at most one verification runs, and an unfinished row without the lock belongs to a process that
ended early.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from infrastructure.postgres import named_lock
from infrastructure.postgres.store import Connection, connect, scalar
from infrastructure.settings import Settings

DDL = """
CREATE TABLE IF NOT EXISTS verifications (
    id uuid PRIMARY KEY,
    requested_by uuid NOT NULL,
    requested_at timestamptz NOT NULL,
    options jsonb NOT NULL,
    stage text NOT NULL,
    done bigint NOT NULL,
    total bigint,
    verdict text,
    differences bigint NOT NULL,
    report json,
    finished_at timestamptz,
    problem text
);
ALTER TABLE verifications ADD COLUMN IF NOT EXISTS summary text;
ALTER TABLE verifications ADD COLUMN IF NOT EXISTS stopped boolean NOT NULL DEFAULT false
"""
"""A person sets `stopped` to end a running verification. After the end, it is true if it worked.

The report is `json`, which keeps its text: `jsonb` changes the order, and refuses NUL."""

KEPT_RUNS = 20
LOCK = "verification"
STOPPED = "Stopped before it finished. Start it again."

COLUMNS = (
    "id, requested_by, requested_at, options, stage, done, total, verdict, differences, summary, "
    "stopped, finished_at, problem"
)


class Stage(StrEnum):
    """The stages of a verification, in order."""

    SEALS = "seals"
    REPLAY = "replay"
    ARTIFACTS = "artifacts"


class Verdict(StrEnum):
    """The result of a verification that finished."""

    MATCHES = "matches"
    DIFFERS = "differs"
    PARTIAL = "partial"
    """Nothing differs, but only a part of the events was compared with their seals."""
    NOT_PROVEN = "not_proven"
    """Nothing differs, but no event was compared with a seal."""


@dataclass(frozen=True)
class Options:
    """The choices of the person who started a verification."""

    replay: bool = True
    artifacts: bool = False
    since: int = 0
    """Notification ID. Only later events are compared with their seals."""
    public_key: str | None = None
    """Key that the person entered. Without one, the key in the archive is used."""
    kept_head: str | None = None
    """Signed note that the person kept."""


@dataclass(frozen=True)
class Outcome:
    """The result of a verification, without its report."""

    verdict: Verdict
    differences: int
    summary: str
    """The events that were compared with their seals, and those that were not."""
    stopped: bool = False
    """True if a person stopped it."""


@dataclass(frozen=True)
class Verification:
    """A verification, without its report. `total` is None if it is unknown."""

    id: UUID
    requested_by: UUID
    requested_at: datetime
    options: Options
    stage: Stage
    done: int
    total: int | None
    verdict: Verdict | None
    differences: int
    summary: str | None
    stopped: bool
    """True if a person stopped it. While it runs, it stops soon."""
    finished_at: datetime | None
    problem: str | None
    """The reason why it ended without a report."""

    @property
    def is_running(self) -> bool:
        return self.finished_at is None and self.problem is None

    @property
    def has_stopped(self) -> bool:
        """True if its process ended early, for example with the gateway."""
        return self.problem == STOPPED


@contextmanager
def verifying(settings: Settings) -> Generator[Connection | None]:
    """Hold the verifications' lock, whose connection writes the progress, or yield None."""
    with connect(settings) as connection:
        yield connection if named_lock.take(connection, LOCK) else None


def is_running(connection: Connection) -> bool:
    """Return True if a process verifies now."""
    return named_lock.is_held(connection, LOCK)


def begin(connection: Connection, id: UUID, requested_by: UUID, options: Options) -> None:
    """Add a verification under the lock, end the row of an early stop, and keep the newest rows."""
    with connection.transaction():
        connection.execute(
            "UPDATE verifications SET finished_at = clock_timestamp(), problem = %s "
            "WHERE finished_at IS NULL",
            [STOPPED],
        )
        connection.execute(
            "INSERT INTO verifications "
            "(id, requested_by, requested_at, options, stage, done, differences) "
            "VALUES (%s, %s, clock_timestamp(), %s, %s, 0, 0)",
            [id, requested_by, Jsonb(asdict(options)), Stage.SEALS],
        )
        connection.execute(
            "DELETE FROM verifications WHERE id NOT IN "
            "(SELECT id FROM verifications ORDER BY requested_at DESC LIMIT %s)",
            [KEPT_RUNS],
        )


def report_progress(
    connection: Connection, id: UUID, stage: Stage, done: int, total: int | None
) -> bool:
    """Store the progress of a verification. Return True if it must stop."""
    return bool(
        scalar(
            connection,
            "UPDATE verifications SET stage = %s, done = %s, total = %s WHERE id = %s "
            "RETURNING stopped",
            [stage, done, total, id],
        )
    )


def request_stop(connection: Connection, id: UUID) -> None:
    """Stop a verification at its next progress. One that has ended stays as it is."""
    connection.execute(
        "UPDATE verifications SET stopped = true WHERE id = %s AND finished_at IS NULL", [id]
    )


def finish(connection: Connection, id: UUID, outcome: Outcome, report: str) -> None:
    """Store the result of a verification, and its report as JSON text."""
    connection.execute(
        "UPDATE verifications SET finished_at = clock_timestamp(), verdict = %s, "
        "differences = %s, summary = %s, stopped = %s, report = %s::json WHERE id = %s",
        [outcome.verdict, outcome.differences, outcome.summary, outcome.stopped, report, id],
    )


def fail(connection: Connection, id: UUID, problem: str) -> None:
    """Store the reason why a verification has no report."""
    storable = problem.replace("\x00", "").encode(errors="replace").decode()
    connection.execute(
        "UPDATE verifications SET finished_at = clock_timestamp(), problem = %s WHERE id = %s",
        [storable, id],
    )


def verifications(connection: Connection) -> list[Verification]:
    """Return all verifications, newest first. One whose process ended early has a problem."""
    before = {each.id for each in _select(connection) if each.is_running}
    stopped = before if before and not is_running(connection) else set[UUID]()
    # Without the lock, they ended before this read. So if they are still unfinished, they stay so.
    return [
        replace(each, problem=STOPPED) if each.is_running and each.id in stopped else each
        for each in _select(connection)
    ]


def verification(connection: Connection, id: UUID) -> Verification | None:
    """Return a verification, or None. One whose process ended early has a problem."""
    return next((each for each in verifications(connection) if each.id == id), None)


def report_of(connection: Connection, id: UUID) -> str | None:
    """Return the report of a verification as JSON text, or None."""
    return scalar(connection, "SELECT report::text FROM verifications WHERE id = %s", [id])


def _select(connection: Connection) -> list[Verification]:
    query = f"SELECT {COLUMNS} FROM verifications ORDER BY requested_at DESC"
    rows = connection.execute(query.encode()).fetchall()
    return [_read(row) for row in rows]


def _read(row: dict[str, Any]) -> Verification:
    read = {
        "options": Options(**row["options"]),
        "stage": Stage(row["stage"]),
        "verdict": row["verdict"] and Verdict(row["verdict"]),
    }
    return Verification(**row | read)
