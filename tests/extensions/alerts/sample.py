"""Alerts of the sample platform."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from extensions.alerts import tables
from extensions.alerts.domain.evaluation import Alert, Changes, Notice, NoticeKind, Silence
from extensions.alerts.domain.rule import Severity
from infrastructure.postgres.store import Connection

LATE = Alert(
    rule="consumer-lag",
    group="consumer=scheduler",
    severity=Severity.CRITICAL,
    text="scheduler is 1,204 events behind (12 min).",
    first_seen=datetime.now(UTC) - timedelta(minutes=14),
    fired_at=datetime.now(UTC) - timedelta(minutes=12),
)
FULL = Alert(
    rule="disk-low",
    group="",
    severity=Severity.WARNING,
    text="Disk space is low: 18.20 of 400.00 GiB are free. Free some space.",
    first_seen=datetime.now(UTC) - timedelta(hours=3),
    fired_at=datetime.now(UTC) - timedelta(hours=3),
)


def add(connection: Connection, ada: UUID, job: UUID) -> None:
    """Add two alerts that fire and one that is resolved."""
    now = datetime.now(UTC)
    ended = Alert(
        rule="job-failed",
        group="account=ada",
        severity=Severity.INFO,
        text="Job support-chats failed: the loss diverged.",
        first_seen=now - timedelta(days=1),
        fired_at=now - timedelta(days=1),
        resolved_at=now - timedelta(hours=20),
    )
    notices = [Notice(LATE, NoticeKind.FIRED, ("team chat",))]
    tables.save(connection, Changes([LATE, FULL, ended], notices=notices), now)
    connection.execute(
        "UPDATE alert_notices SET problem = 'Status 503 of the receiver.', failures = 2"
    )
    tables.silence(connection, Silence("disk-low", None, now + timedelta(hours=2)))
