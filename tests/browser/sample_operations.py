"""Leaders, alerts, parked events, attacks and trainer output of the sample platform."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from domain.alerting.evaluation import Alert, Changes, Notice, NoticeKind, Silence
from domain.alerting.rule import Severity
from domain.jobs.job import Job
from infrastructure import alerts, security_log
from infrastructure.artifacts import Artifacts
from infrastructure.job_artifacts import kept_log_ref
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
    detail = "locked out for 4 s after 22 wrong keys"
    for address in ("198.51.100.7", "2001:db8:85a3::7348"):
        security_log.record(connection, "lockout", address, detail)


OUTPUT = """INFO Loading the base model.
ERROR The trainer failed.
Traceback (most recent call last):
  File "/opt/ecolink/services/trainer/segment.py", line 212, in run
    loss = step(batch)
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.10 GiB.
"""


def add_trainer_output(artifacts: Artifacts, job: Job) -> None:
    """Store the output of the last launch of a job."""
    artifacts.put(kept_log_ref(job, job.segment), OUTPUT.encode())
