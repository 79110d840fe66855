"""A log of jobs that the benchmarks of the audit seal and change."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domain.audit.tree_head import LogKey
from domain.core.event_log import EventLog
from domain.jobs.job import SegmentEnd
from tests.builders.history import History

ORIGIN, KEY = "ecolink/bench", Ed25519PrivateKey.generate()
PUBLIC = LogKey(ORIGIN, KEY.public_key())
Connection = psycopg.Connection[dict[str, Any]]


def run_jobs(log: EventLog, jobs: int) -> None:
    """Record the events of jobs from approval to completion, each of its own account."""
    for number in range(jobs):
        history = History(log, UUID(int=2 * number + 1), UUID(int=2 * number + 2))
        if number == 0:
            history.open_pool(jobs)
        history.open_account(1_000_000)
        history.approve_job()
        history.allocate_segment(1)
        history.grant_lease(1)
        history.start_pod(1)
        history.start_training(1)
        history.save_checkpoint(1, 10, 40)
        history.bill(1, 240)
        history.complete(1)
        history.end_segment(1, SegmentEnd.COMPLETED, 250)
