"""Leaders, parked events, attacks and trainer output of the sample platform."""

from __future__ import annotations

from uuid import uuid4

from domain.jobs.job import Job
from infrastructure.accounts import security_log
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.store import Connection
from infrastructure.training.job_artifacts import kept_log_ref

LEADERS = ("billing", "datasets", "projector", "relay", "scheduler", "sealer", "serving")


def add_operations(connection: Connection) -> None:
    """Add processes that led, two parked events and two lockouts."""
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
