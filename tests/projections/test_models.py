"""Models: what was registered, under its name."""

from __future__ import annotations

from uuid import UUID, uuid4

from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from domain.jobs.job import SegmentEnd
from domain.use_cases.deployments import Deploying
from infrastructure.store import Connection
from projections import JOB_DETAIL, MODELS
from projections.job_detail import job
from projections.models import job_of_model, model_of, models_of
from tests.builders.commands import NOW, command
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.builders.history import History
from tests.projections.conftest import Fold


def test_a_registered_adapter_is_a_model(
    pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.run_until("training")
    fold(MODELS)
    with pool.connection() as connection:
        assert models_of(connection, ACCOUNT_ID) == []
        history.complete(1)
        fold(MODELS)
        assert models_of(connection, ACCOUNT_ID) == [
            {
                "model": "ft:tiny:222222222222",
                "account_id": ACCOUNT_ID,
                "job_id": JOB_ID,
                "adapter_ref": "jobs/a/adapter",
                "manifest_sha256": "a" * 64,
                "registered_at": NOW,
            }
        ]


def test_a_promoted_adapter_is_a_model(
    pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.run_until("training")
    history.save_checkpoint(1, 10, 40)
    history.cancel()
    history.end_segment(1, SegmentEnd.STOPPED, 60)
    history.promote()
    fold(MODELS)
    with pool.connection() as connection:
        (row,) = models_of(connection, ACCOUNT_ID)
    assert (row["model"], row["adapter_ref"]) == ("ft:tiny:222222222222", "checkpoints/1/10")
    assert row["manifest_sha256"] == "c" * 64


def test_two_jobs_whose_ids_begin_alike_are_two_models(
    log: EventLog, pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    """Whoever chooses idempotency keys can have two such ids; the read model takes both."""
    history.run_until("training")
    history.complete(1)
    history.end_segment(1, SegmentEnd.COMPLETED, 60)
    twin = History(log, job_id=UUID(JOB_ID.hex[:12] + uuid4().hex[12:]))
    twin.approve_job()
    twin.allocate_segment(1)
    twin.grant_lease(1)
    twin.start_pod(1)
    twin.start_training(1)
    twin.complete(1)
    fold(MODELS)
    with pool.connection() as connection:
        rows = models_of(connection, ACCOUNT_ID)
        assert {row["job_id"] for row in rows} == {JOB_ID, twin.job_id}
        (name,) = {row["model"] for row in rows}
        first = min(rows, key=lambda row: (row["registered_at"], row["job_id"]))
        assert model_of(connection, ACCOUNT_ID, name) == first
        assert job_of_model(connection, name) == first["job_id"]


def test_a_deleted_model_is_gone(
    log: EventLog, pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.run_until("training")
    history.complete(1)
    with command("delete"):
        Deploying(log).delete_model(ACCOUNT_ID, JOB_ID)
    fold(MODELS)
    fold(JOB_DETAIL)
    with pool.connection() as connection:
        assert models_of(connection, ACCOUNT_ID) == []
        row = job(connection, ACCOUNT_ID, JOB_ID)
    assert row is not None
    assert (row["status"], row["model"], row["checkpoints"]) == ("registered", None, [])
