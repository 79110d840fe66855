"""Leaders, alerts and parked events of the sample platform."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from domain.alerting.evaluation import Alert, Changes, Notice, NoticeKind, Silence
from domain.alerting.rule import Severity
from infrastructure import alerts
from infrastructure.store import Connection

LEADERS = ("alerts", "billing", "datasets", "projector", "relay", "scheduler", "sealer", "serving")
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


def add_operations(connection: Connection) -> None:
    """Add processes that led, two parked events, two alerts that fire and one resolved."""
    now = datetime.now(UTC)
    for number, name in enumerate(LEADERS):
        for pid in range(4_100 + number, 4_101 + 2 * number, 2):
            connection.execute("SELECT take_lead(%s, 'gpu-host-1', %s)", [name, pid])
    job = uuid4()
    for notification_id, topic, error in (
        (1_204, "JobApproved", "OperationalError: connection to server was lost"),
        (1_207, "CancelRequested", "An earlier event of this aggregate is parked."),
    ):
        connection.execute(
            "INSERT INTO parked_events VALUES ('scheduler', %s, %s, %s, %s)",
            [notification_id, job, topic, error],
        )
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
    alerts.save(connection, Changes([LATE, FULL, ended], notices=notices), now)
    connection.execute(
        "UPDATE alert_notices SET problem = 'Status 503 of the receiver.', failures = 2"
    )
    alerts.silence(connection, Silence("disk-low", None, now + timedelta(hours=2)))
