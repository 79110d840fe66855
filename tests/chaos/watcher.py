"""Reader of the raw rows of the event log while the harness runs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tests.chaos.records import Connection
from tests.chaos.rig import UnderTest

NEW_EVENTS = """
SELECT notification_id, originator_id::text, topic, convert_from(state, 'UTF8') AS state
FROM ecolink_events WHERE notification_id > %s ORDER BY notification_id
"""

UNSENT = """
SELECT coalesce(sum(
    (SELECT count(*) FROM step_measurements WHERE job_id = run.job_id)
    + (SELECT count(*) FROM evaluation_measurements WHERE job_id = run.job_id)
    - coalesce((run.sent->>'rows')::bigint, 0)
), 0)::bigint AS unsent
FROM tracked_runs AS run WHERE run.status IN ('waiting', 'sending')
"""

FINAL = ("registered", "cancelled", "failed")


@dataclass
class JobView:
    """The state of a job, as far as the workload needs it."""

    account: str
    status: str = "training"
    pause_reason: str | None = None
    trains: bool = False
    step: int = 0


@dataclass
class Watcher:
    """An incremental reader of the log. Every query may fail while PostgreSQL is down."""

    rig: UnderTest
    position: int = 0
    jobs: dict[str, JobView] = field(default_factory=dict)
    open_meters: set[str] = field(default_factory=set)

    def look(self) -> None:
        """Read new events, if the database answers."""
        try:
            with self._connect() as connection:
                rows = connection.execute(NEW_EVENTS, [self.position]).fetchall()
        except psycopg.Error:
            return
        for row in rows:
            self._take(row["originator_id"], row["topic"], json.loads(row["state"]))
            self.position = row["notification_id"]

    @property
    def progress(self) -> tuple[int, int]:
        """The number of ended jobs, and the sum of the steps that all jobs have saved."""
        ended = sum(job.status in FINAL for job in self.jobs.values())
        return ended, sum(job.step for job in self.jobs.values())

    def lag(self) -> int | None:
        """Return how many events the slowest consumer is behind; None if the database is down."""
        try:
            with self._connect() as connection:
                row = connection.execute(
                    "SELECT (SELECT max(notification_id) FROM ecolink_events) - least("
                    "(SELECT min(position) FROM projection_positions), (SELECT min(last) FROM ("
                    "SELECT max(notification_id) AS last FROM ecolink_tracking "
                    "WHERE application_name NOT IN ('serving', '__migration__') "
                    "GROUP BY application_name) AS each)) AS lag"
                ).fetchone()
        except psycopg.Error:
            return None
        return None if row is None else row["lag"]

    def unsent(self) -> int | None:
        """Return how many measurements trackers lack; None if the database is down."""
        try:
            with self._connect() as connection:
                row = connection.execute(UNSENT).fetchone()
        except psycopg.Error:
            return None
        return None if row is None else row["unsent"]

    def _connect(self) -> Connection:
        url = self.rig.settings.database_url
        assert url is not None
        return Connection.connect(
            url,
            autocommit=True,
            row_factory=dict_row,
            connect_timeout=2,
            options="-c statement_timeout=5000",
        )

    def _take(self, originator: str, topic: str, state: dict[str, Any]) -> None:
        if topic == "JobApproved":
            self.jobs[originator] = JobView(state["account_id"])
        elif topic == "MeterOpened":
            self.open_meters.add(originator)
        elif topic == "MeterClosed":
            self.open_meters.discard(originator)
        job = self.jobs.get(originator)
        if job is None:
            return
        match topic:
            case "TrainingStarted":
                job.trains = True
            case "CheckpointSaved":
                job.step = max(job.step, state["step"])
            case "SegmentEnded":
                job.trains = False
            case "JobPaused":
                job.status, job.pause_reason = "paused", state["reason"]
            case "JobResumed":
                job.status = "training"
            case "Registered" | "JobCancelled" | "JobFailed":
                job.status = {"JobCancelled": "cancelled", "JobFailed": "failed"}.get(
                    topic, "registered"
                )
