"""Models of registered and promoted jobs."""

from __future__ import annotations

from uuid import UUID, uuid4

from domain.jobs.job import SegmentEnd
from domain.use_cases.deployments import Deploying
from projections import JOB_DETAIL, MODELS
from projections.job_detail import job
from projections.models import job_of_model, model_of, models_of
from tests.builders.commands import NOW, command
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.builders.history import History
from tests.projections.conftest import Fold

MODEL = {
    "model": "ft:tiny:222222222222",
    "account_id": ACCOUNT_ID,
    "job_id": JOB_ID,
    "registered_at": NOW,
}


def test_a_registered_adapter_is_a_model_until_it_is_deleted(history: History, fold: Fold) -> None:
    history.run_until("training")
    assert models_of(fold(MODELS), ACCOUNT_ID) == []
    history.complete(1)
    registered = {"adapter_ref": "jobs/a/adapter", "manifest_sha256": "a" * 64}
    assert models_of(fold(MODELS), ACCOUNT_ID) == [MODEL | registered]
    with command("delete"):
        Deploying(history.log).delete_model(ACCOUNT_ID, JOB_ID)
    assert models_of(fold(MODELS), ACCOUNT_ID) == []
    row = job(fold(JOB_DETAIL), ACCOUNT_ID, JOB_ID)
    assert row is not None
    assert (row["status"], row["model"], row["checkpoints"]) == ("registered", None, [])


def test_a_promoted_adapter_is_a_model(history: History, fold: Fold) -> None:
    history.run_until("training")
    history.save_checkpoint(1, 10, 40)
    history.cancel()
    history.end_segment(1, SegmentEnd.STOPPED, 60)
    history.promote()
    promoted = {"adapter_ref": "checkpoints/1/10", "manifest_sha256": "c" * 64}
    assert models_of(fold(MODELS), ACCOUNT_ID) == [MODEL | promoted]


def test_two_jobs_may_have_models_with_the_same_name(history: History, fold: Fold) -> None:
    """Users choose idempotency keys, so two job ids can start with the same digits."""
    history.run_until("training")
    history.complete(1)
    history.end_segment(1, SegmentEnd.COMPLETED, 60)
    twin = History(history.log, job_id=UUID(JOB_ID.hex[:12] + uuid4().hex[12:]))
    twin.approve_job()
    twin.allocate_segment(1)
    twin.grant_lease(1)
    twin.start_pod(1)
    twin.start_training(1)
    twin.complete(1)
    connection = fold(MODELS)
    rows = models_of(connection, ACCOUNT_ID)
    assert {row["job_id"] for row in rows} == {JOB_ID, twin.job_id}
    (name,) = {row["model"] for row in rows}
    first = min(rows, key=lambda row: (row["registered_at"], row["job_id"]))
    assert model_of(connection, ACCOUNT_ID, name) == first
    assert job_of_model(connection, name) == first["job_id"]
