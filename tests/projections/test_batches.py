"""Folds of batches: their size, and the way in which they arrive, do not change the rows."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest

from domain.jobs.job import SegmentEnd
from domain.jobs.job_request import JobRequest
from infrastructure.bus.consumer import recorded
from infrastructure.postgres import event_batches
from infrastructure.postgres.store import Connection
from infrastructure.settings import Settings
from projections import PROJECTIONS
from projections.billing_ledger import balances, posted_balances
from projections.projection import apply_batch
from projections.rebuilding import rebuild
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID
from tests.builders.history import History
from tests.domain.jobs.test_job_request import CHOICES, ORDER
from tests.logs import notifications
from tests.projections.test_projection import contents

pytestmark = pytest.mark.full

Rows = dict[str, list[list[dict[str, object]]]]


def interrupt(job: History) -> None:
    """Pause a job during its launch, resume it, let it crash until it waits, and cancel it."""
    job.approve_job()
    job.allocate_segment(1)
    job.grant_lease(1)
    job.pause()
    job.start_pod(1)
    job.start_training(1)
    job.save_checkpoint(1, 10, 40)
    job.end_segment(1, SegmentEnd.STOPPED, 60)
    job.resume(rate_micros_per_hour=7_200_000)
    for segment in (2, 3):
        job.allocate_segment(segment)
        job.grant_lease(segment)
        job.end_segment(segment, SegmentEnd.CRASHED, 0, error_class="ValueError")
    job.request_gpus(4)
    job.cancel()


@pytest.fixture
def eventful(history: History) -> History:
    """A log with jobs of two accounts, deployments, payments and many minutes."""
    history.run_with_a_crash()
    interrupt(history.another_job())
    history.undeploy(history.deploy_checkpoint(10))
    history.issue_key()
    history.pay_by_card()
    stopped, running = history.another_job(uuid4()), history.another_job()
    stopped.open_account(5_000_000)
    for each in (stopped, running):
        each.approve_job()
        each.allocate_segment(1)
        each.grant_lease(1)
        each.start_pod(1)
        for minute in range(1, 6):
            each.bill(1, 60 * minute)
        if each is stopped:
            each.end_segment(1, SegmentEnd.STOPPED, 300)
    with command("order"):
        history.log.commit(JobRequest.ordered(uuid4(), ACCOUNT_ID, CHOICES, ORDER))
    return history


def emptied(settings: Settings) -> None:
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url) as owner:
        for projection in PROJECTIONS:
            for table in projection.tables:
                owner.execute(f"TRUNCATE {table}".encode())
        owner.execute("UPDATE projection_positions SET position = 0")


def stored(connection: Connection) -> Rows:
    return {each.name: contents(connection, each) for each in PROJECTIONS}


def test_batches_of_any_size_store_the_same_rows(
    settings: Settings, eventful: History, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = eventful.log
    batch = [recorded(log, each) for each in notifications(log)]
    found: list[Rows] = []
    for size in (1, 7, 500):
        emptied(settings)
        for start in range(0, len(batch), size):
            apply_batch(connection, PROJECTIONS, batch[start : start + size])
        found.append(stored(connection))
    emptied(settings)
    monkeypatch.setattr(event_batches, "BATCH_EVENTS", 7)
    assert settings.owner_database_url is not None
    assert rebuild(settings.owner_database_url, PROJECTIONS, lambda *_: None) == len(batch)
    found.append(stored(connection))
    for rows in found[1:]:
        assert rows == found[0]
    assert balances(connection) == posted_balances(connection)
