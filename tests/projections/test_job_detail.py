"""A job's row tells what the job page shows, chapter by chapter."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from psycopg_pool import ConnectionPool

from domain.hyperparameters import Hyperparameters
from domain.job import RELAUNCH_LIMIT, SegmentEnd
from infrastructure.store import Connection
from projections import JOB_DETAIL
from projections.job_detail import job, jobs_of
from tests.domain.examples import ACCOUNT_ID, JOB_ID, PLAN
from tests.projections.conftest import Fold
from tests.stories import BOUND_AT, Story


@pytest.fixture
def row(pool: ConnectionPool[Connection], fold: Fold) -> Any:
    """Reads the job's row as the log makes it now."""

    def read() -> dict[str, Any]:
        fold(JOB_DETAIL)
        with pool.connection() as connection:
            found = job(connection, ACCOUNT_ID, JOB_ID)
        assert found is not None
        return found

    return read


@pytest.mark.parametrize(
    ("chapter", "phase"),
    [
        ("approved", "waiting for a GPU"),
        ("allocated", "waiting for a lease"),
        ("leased", "launching"),
        ("launched", "loading model and data"),
        ("training", "training"),
    ],
)
def test_a_job_says_what_it_waits_for(story: Story, row: Any, chapter: str, phase: str) -> None:
    story.run_until(chapter)
    assert (row()["status"], row()["phase"]) == ("training", phase)


def test_what_was_approved_is_shown(story: Story, row: Any) -> None:
    story.run_until("approved")
    shown = row()
    assert (shown["base_model"], shown["rate_micros_per_hour"]) == ("tiny", 3_600_000)
    assert shown["dataset_id"] == PLAN.dataset_id
    assert shown["hyperparameters"] == Hyperparameters().model_dump(mode="json")


def test_training_shows_its_steps_and_its_last_checkpoint(story: Story, row: Any) -> None:
    story.run_until("training")
    story.save_checkpoint(1, 10, 40)
    shown = row()
    assert shown["bound_at"] == BOUND_AT
    assert (shown["total_steps"], shown["train_examples"], shown["eval_examples"]) == (30, 95, 5)
    assert (shown["checkpoint_step"], shown["checkpoint_loss"]) == (10, 2.5)


def test_a_finished_job_shows_its_model_its_losses_and_its_bill(story: Story, row: Any) -> None:
    story.run_with_a_crash()
    shown = row()
    assert (shown["status"], shown["phase"]) == ("registered", "registered")
    assert (shown["model"], shown["adapter_ref"]) == ("ft:tiny:22222222", "jobs/a/adapter")
    assert (shown["loss_before"], shown["loss_after"]) == (3.0, 2.0)
    assert (shown["segment"], shown["crashes"]) == (2, 1)
    assert (shown["billed_seconds"], shown["charged_micros"]) == (230, 230_000)
    assert shown["credited_micros"] == 60_000
    assert (shown["error_class"], shown["log_ref"]) == (None, None), "it came to a good end"


def test_a_crash_says_why_and_that_the_job_waits_again(story: Story, row: Any) -> None:
    story.run_until("training")
    story.end_segment(1, SegmentEnd.CRASHED, 30, error_class="OutOfMemoryError")
    shown = row()
    assert (shown["status"], shown["phase"]) == ("training", "waiting for a GPU")
    assert (shown["error_class"], shown["log_ref"]) == ("OutOfMemoryError", "logs/tail")
    assert shown["crashes"] == 1


def test_grace_is_counted_and_shown(story: Story, row: Any) -> None:
    story.run_until("training")
    story.end_segment(1, SegmentEnd.LEASE_ENDED, 305, grace_seconds=5)
    assert row()["grace_seconds"] == 5
    assert row()["billed_seconds"] == 300


def test_a_job_that_crashed_too_often_has_failed(story: Story, row: Any) -> None:
    story.run_until("allocated")
    for segment in range(1, RELAUNCH_LIMIT + 2):
        if segment > 1:
            story.allocate_segment(segment)
        story.grant_lease(segment)
        story.end_segment(segment, SegmentEnd.CRASHED, 0, error_class="ValueError")
    shown = row()
    assert (shown["status"], shown["phase"], shown["error_class"]) == (
        "failed",
        "failed",
        "ValueError",
    )


def test_another_account_sees_nothing_of_it(
    pool: ConnectionPool[Connection], story: Story, fold: Fold
) -> None:
    story.run_until("approved")
    fold(JOB_DETAIL)
    with pool.connection() as connection:
        assert job(connection, uuid4(), JOB_ID) is None
        assert jobs_of(connection, uuid4()) == []
        assert [each["job_id"] for each in jobs_of(connection, ACCOUNT_ID)] == [JOB_ID]
