"""The runs of trackers: which jobs are tracked where, and how far their metrics are sent.

A run is a row beside its job. The metrics that it sends are the stored rows of measurements, so
none is lost while a tracker is unavailable, and they stay after the end of the job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from domain.training.integrations import INTEGRATION, Integration, Tracker
from infrastructure.extensions import Table
from infrastructure.http.dispatcher import Busy
from infrastructure.postgres.store import Connection

RUNS = Table(
    name="tracked_runs",
    owner="account_id",
    time="created_at",
    ddl="""
CREATE TABLE IF NOT EXISTS tracked_runs (
    job_id uuid NOT NULL,
    tracker text NOT NULL,
    account_id uuid NOT NULL,
    integration jsonb NOT NULL,
    status text NOT NULL,
    run_id text,
    url text,
    server text,
    sent jsonb NOT NULL DEFAULT '{}',
    turns bigint NOT NULL DEFAULT 0,
    failures integer NOT NULL DEFAULT 0,
    failing_since timestamptz,
    error text,
    sent_at timestamptz,
    created_at timestamptz NOT NULL,
    next_attempt_at timestamptz NOT NULL,
    finished_at timestamptz,
    PRIMARY KEY (job_id, tracker)
);
CREATE INDEX IF NOT EXISTS tracked_runs_due ON tracked_runs (next_attempt_at)
    WHERE status IN ('waiting', 'sending');
CREATE INDEX IF NOT EXISTS tracked_runs_of_account ON tracked_runs (account_id, tracker)
""",
)
# turns: number of changes of the row by the trackers process, so that a former leader changes
# nothing.


class RunStatus(StrEnum):
    """States of a run."""

    WAITING = "waiting"
    """The tracker has no run yet."""
    SENDING = "sending"
    """EcoLink sends the metrics while the job runs."""
    FINISHED = "finished"
    """The tracker has all metrics and the result of the job."""
    STOPPED = "stopped"
    """The tracker accepted nothing for a week. The owner can start it again."""
    FILES = "files"
    """EcoLink makes the files of TensorBoard from the stored metrics on request."""


OPEN = (RunStatus.WAITING, RunStatus.SENDING)


@dataclass(frozen=True)
class Sent:
    """The metrics of a run that are sent.

    Rows of steps are sent in the order of (segment, step), and evaluations in the order of
    (segment, elapsed seconds, step), because the evaluation of the base model has step 0 but is
    made last. `rows` counts both kinds, and `lines` the lines in the history of the tracker.
    """

    segment: int = 0
    step: int = 0
    evaluation_segment: int = 0
    evaluation_seconds: float = -1.0
    evaluation_step: int = -1
    rows: int = 0
    lines: int = 0
    last_step: int | None = None
    """Highest step that is sent."""
    described: str | None = None
    """Status of the job that the tracker shows."""


@dataclass(frozen=True)
class TrackedRun:
    """A job in one tracker.

    `error` is that of the last attempt, and None after a success. `run_id` and `url` are those of
    the tracker, and `server` identifies the server that chose them.
    """

    job_id: UUID
    tracker: Tracker
    account_id: UUID
    integration: Integration
    status: RunStatus
    run_id: str | None
    url: str | None
    server: str | None
    sent: Sent
    turns: int
    failures: int
    failing_since: datetime | None
    error: str | None
    sent_at: datetime | None
    created_at: datetime
    next_attempt_at: datetime
    finished_at: datetime | None

    def __post_init__(self) -> None:  # PostgreSQL returns texts and dicts
        object.__setattr__(self, "tracker", Tracker(self.tracker))
        object.__setattr__(self, "status", RunStatus(self.status))
        if isinstance(self.integration, dict):
            found = INTEGRATION.validate_python(self.integration)
            object.__setattr__(self, "integration", found)
        if isinstance(self.sent, dict):
            object.__setattr__(self, "sent", Sent(**self.sent))

    @property
    def id(self) -> tuple[UUID, Tracker]:
        """Key of the run."""
        return self.job_id, self.tracker

    @property
    def receiver_id(self) -> tuple[UUID, Tracker]:
        """The server: an account has one for each tracker."""
        return self.account_id, self.tracker


def add_runs(
    connection: Connection,
    account_id: UUID,
    job_id: UUID,
    integrations: Sequence[Integration],
    now: datetime,
) -> None:
    """Track a job, unless it is tracked already."""
    for each in integrations:
        status = RunStatus.WAITING if each.type.is_remote else RunStatus.FILES
        connection.execute(
            "INSERT INTO tracked_runs (job_id, tracker, account_id, integration, status, "
            "created_at, next_attempt_at) VALUES (%s, %s, %s, %s, %s, %s, %s) "
            "ON CONFLICT DO NOTHING",
            [
                *(job_id, each.type, account_id),
                *(Jsonb(each.model_dump(mode="json")), status, now, now),
            ],
        )


def runs_of(connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, list[TrackedRun]]:
    """Return the runs of jobs, by job ID."""
    with connection.cursor(row_factory=class_row(TrackedRun)) as cursor:
        rows = cursor.execute(
            "SELECT * FROM tracked_runs WHERE job_id = ANY(%s) ORDER BY tracker", [list(job_ids)]
        ).fetchall()
    found: dict[UUID, list[TrackedRun]] = {}
    for row in rows:
        found.setdefault(row.job_id, []).append(row)
    return found


def run_of(connection: Connection, job_id: UUID, tracker: Tracker) -> TrackedRun | None:
    """Return the run of a job in a tracker, or None."""
    found = runs_of(connection, [job_id]).get(job_id, [])
    return next((each for each in found if each.tracker is tracker), None)


def due_runs(connection: Connection, now: datetime, limit: int, busy: Busy) -> list[TrackedRun]:
    """Return runs whose next attempt is due, the earliest first, except busy ones."""
    with connection.cursor(row_factory=class_row(TrackedRun)) as cursor:
        return cursor.execute(
            "SELECT * FROM tracked_runs WHERE status IN ('waiting', 'sending') "
            "AND next_attempt_at <= %(now)s "
            "AND NOT (job_id, tracker) = ANY(SELECT * FROM "
            "unnest(%(jobs)s::uuid[], %(trackers)s::text[])) "
            "AND NOT (account_id, tracker) = ANY(SELECT * FROM "
            "unnest(%(accounts)s::uuid[], %(of_accounts)s::text[])) "
            "AND NOT account_id = ANY(%(full)s) "
            "ORDER BY next_attempt_at LIMIT %(limit)s",
            {
                "now": now,
                "jobs": [job for job, _ in busy.messages],
                "trackers": [tracker for _, tracker in busy.messages],
                "accounts": [account for account, _ in busy.receivers],
                "of_accounts": [tracker for _, tracker in busy.receivers],
                "full": list(busy.accounts),
                "limit": limit,
            },
        ).fetchall()


RESTARTED = (
    "next_attempt_at = %s, failures = 0, failing_since = NULL, "
    "status = CASE WHEN status <> 'stopped' THEN status "
    "WHEN run_id IS NULL THEN 'waiting' ELSE 'sending' END"
)
"""Assignments with which a run is due, as after a success."""


def restart_runs(connection: Connection, account_id: UUID, tracker: Tracker, now: datetime) -> None:
    """Start the unfinished runs of an account's tracker again, at another server."""
    connection.execute(
        "UPDATE tracked_runs SET status = 'waiting', run_id = NULL, url = NULL, server = NULL, "
        "sent = '{}', error = NULL, "
        "turns = turns + 1, failures = 0, failing_since = NULL, next_attempt_at = %s "
        "WHERE account_id = %s AND tracker = %s AND status IN ('waiting', 'sending', 'stopped')",
        [now, account_id, tracker],
    )


def stop_runs(
    connection: Connection, account_id: UUID, tracker: Tracker, error: str, now: datetime
) -> None:
    """Stop the unfinished runs of an account's tracker."""
    connection.execute(
        "UPDATE tracked_runs SET status = 'stopped', error = %s, turns = turns + 1, failures = 0, "
        "failing_since = NULL, next_attempt_at = %s "
        "WHERE account_id = %s AND tracker = %s AND status IN ('waiting', 'sending')",
        [error, now, account_id, tracker],
    )


def retry_runs(connection: Connection, account_id: UUID, tracker: Tracker, now: datetime) -> None:
    """Send to all failing or stopped runs of an account's tracker immediately."""
    connection.execute(
        f"UPDATE tracked_runs SET {RESTARTED} WHERE account_id = %s AND tracker = %s "
        "AND (failures > 0 OR status = 'stopped')",
        [now, account_id, tracker],
    )


def retry_run(connection: Connection, job_id: UUID, tracker: Tracker, now: datetime) -> None:
    """Send to one run immediately, also if it is stopped."""
    connection.execute(
        f"UPDATE tracked_runs SET {RESTARTED} WHERE job_id = %s AND tracker = %s "
        "AND (failures > 0 OR status = 'stopped')",
        [now, job_id, tracker],
    )


def store_run(connection: Connection, run: TrackedRun, **changes: Any) -> TrackedRun | None:
    """Change constant columns of a run. Return it, or None if someone else changed it."""
    changed = replace(run, **changes, turns=run.turns + 1)
    values = {
        name: Jsonb(vars(value)) if isinstance(value, Sent) else value
        for name, value in changes.items()
    }
    assignments = ", ".join(f"{name} = %({name})s" for name in values)
    stored = connection.execute(
        f"UPDATE tracked_runs SET {assignments}, turns = turns + 1 "  # type: ignore[arg-type]
        "WHERE job_id = %(job)s AND tracker = %(kind)s AND turns = %(turn)s",
        {**values, "job": run.job_id, "kind": run.tracker, "turn": run.turns},
    )
    return changed if stored.rowcount else None


def open_runs(connection: Connection, now: datetime) -> tuple[int, int, float]:
    """Return the numbers of open and of failing runs, and the longest failure in seconds."""
    row = connection.execute(
        "SELECT count(*) AS open, count(*) FILTER (WHERE failures > 0) AS failing, "
        "coalesce(extract(epoch FROM %s - min(failing_since)), 0)::double precision AS seconds "
        "FROM tracked_runs WHERE status IN ('waiting', 'sending')",
        [now],
    ).fetchone()
    assert row is not None
    return row["open"], row["failing"], row["seconds"]
