"""A job's row tells what the job page shows, chapter by chapter."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from psycopg_pool import ConnectionPool

from domain.estimating.estimate import Estimate
from domain.jobs.failures import FailureClass
from domain.jobs.job import RELAUNCH_DELAYS, RELAUNCH_LIMIT, SegmentEnd
from domain.training.hyperparameters import Hyperparameters
from infrastructure.store import Connection
from projections import JOB_DETAIL
from projections.job_detail import due_relaunches, expired_adapters, job, jobs_of
from tests.builders.commands import NOW
from tests.builders.examples import ACCOUNT_ID, ESTIMATE, JOB_ID, PLAN
from tests.builders.history import BOUND_AT, RETENTION, History
from tests.projections.conftest import Fold


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


def cancel_with_a_checkpoint(history: History) -> None:
    history.run_until("training")
    history.save_checkpoint(1, 10, 40)
    history.cancel()
    history.end_segment(1, SegmentEnd.STOPPED, 60)


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
def test_a_job_says_what_it_waits_for(history: History, row: Any, chapter: str, phase: str) -> None:
    history.run_until(chapter)
    assert (row()["status"], row()["phase"]) == ("training", phase)


def test_what_was_approved_is_shown(history: History, row: Any) -> None:
    history.run_until("approved")
    shown = row()
    assert (shown["base_model"], shown["rate_micros_per_hour"]) == ("tiny", 3_600_000)
    assert shown["dataset_id"] == PLAN.dataset_id
    assert shown["hyperparameters"] == Hyperparameters().model_dump(mode="json")
    assert (shown["precision"], shown["gradient_checkpointing"]) == ("bf16", False)
    assert shown["sequence_length"] == 128
    assert Estimate.model_validate(shown["estimate"]) == ESTIMATE
    assert (shown["low_seconds"], shown["high_seconds"]) == (120, 156)
    assert (shown["low_micros"], shown["high_micros"]) == (120_000, 156_000)
    assert shown["waiting_since"] == NOW


def test_training_shows_its_steps_and_its_last_checkpoint(history: History, row: Any) -> None:
    history.run_until("training")
    history.save_checkpoint(1, 10, 40)
    shown = row()
    assert shown["bound_at"] == BOUND_AT
    assert (shown["total_steps"], shown["train_examples"], shown["eval_examples"]) == (30, 95, 5)
    assert (shown["checkpoint_step"], shown["checkpoint_loss"]) == (10, 2.5)
    assert (shown["segment_step"], shown["training_since"]) == (0, NOW)
    assert (shown["step"], shown["trained"], shown["waiting_since"]) == (10, False, None)
    history.save_checkpoint(1, 30, 80)
    assert (row()["step"], row()["trained"]) == (30, True)


def test_a_finished_job_shows_its_model_its_losses_and_its_bill(history: History, row: Any) -> None:
    history.run_with_a_crash()
    shown = row()
    assert (shown["status"], shown["phase"]) == ("registered", "registered")
    assert (shown["model"], shown["adapter_ref"]) == ("ft:tiny:222222222222", "jobs/a/adapter")
    assert (shown["loss_before"], shown["loss_after"]) == (3.0, 2.0)
    assert (shown["segment"], shown["crashes"]) == (2, 1)
    assert (shown["billed_seconds"], shown["charged_micros"]) == (230, 230_000)
    assert shown["credited_micros"] == 60_000
    assert (shown["error_class"], shown["log_ref"]) == (None, None), "it came to a good end"
    assert shown["failure"] is None
    assert (shown["actual_seconds"], shown["actual_micros"]) == (170, 170_000)


def test_the_loss_of_the_end_is_that_of_the_last_checkpoint(history: History, row: Any) -> None:
    history.run_until("training")
    history.save_checkpoint(1, 20, 40)
    history.save_checkpoint(1, 30, 60)
    history.complete(1)
    assert [(each["step"], each["eval_loss"]) for each in row()["checkpoints"]] == [
        (20, None),
        (30, 2.0),
    ]


def test_a_checkpoint_before_the_end_has_not_its_loss(history: History, row: Any) -> None:
    history.run_until("training")
    history.save_checkpoint(1, 20, 40)
    history.complete(1)
    assert [each["eval_loss"] for each in row()["checkpoints"]] == [None]


def test_what_was_measured_stands_beside_what_was_predicted(history: History, row: Any) -> None:
    history.run_with_a_crash()
    shown = row()
    assert (shown["required_bytes"], shown["peak_memory_bytes"]) == (1_500_000_000, 1_200_000_000)
    assert (shown["accuracy_before"], shown["accuracy_after"]) == (0.4, 0.55)


def test_a_crash_says_why_and_that_the_job_waits_again(history: History, row: Any) -> None:
    history.run_until("training")
    history.end_segment(
        1, SegmentEnd.CRASHED, 30, failure=FailureClass.DISK_FULL, error_class="OSError"
    )
    shown = row()
    assert (shown["status"], shown["phase"]) == ("training", "waiting for a GPU")
    assert (shown["failure"], shown["error_class"]) == ("disk_full", "OSError")
    assert (shown["log_ref"], shown["waiting_since"]) == ("logs/tail", NOW)
    assert shown["crashes"] == 1


def test_a_job_that_is_put_off_says_until_when_it_stands_in_no_queue(
    history: History, row: Any, pool: ConnectionPool[Connection]
) -> None:
    history.run_until("training")
    history.end_segment(1, SegmentEnd.CRASHED, 30)
    history.allocate_segment(2)
    history.grant_lease(2)
    assert row()["relaunch_at"] is None
    history.end_segment(2, SegmentEnd.CRASHED, 0)
    until = NOW + RELAUNCH_DELAYS[1]
    shown = row()
    assert (shown["phase"], shown["relaunch_at"]) == ("waiting to retry", until)
    with pool.connection() as connection:
        assert due_relaunches(connection, until - timedelta(seconds=1)) == []
        assert due_relaunches(connection, until) == [JOB_ID]
        history.request_gpus(3)
        shown = row()
        assert (shown["phase"], shown["relaunch_at"]) == ("waiting for a GPU", None)
        assert due_relaunches(connection, until) == []


@pytest.mark.parametrize("stop", [History.pause, History.cancel])
def test_a_job_that_was_stopped_is_put_off_no_more(history: History, row: Any, stop: Any) -> None:
    history.run_until("training")
    history.end_segment(1, SegmentEnd.CRASHED, 30)
    history.allocate_segment(2)
    history.grant_lease(2)
    history.end_segment(2, SegmentEnd.CRASHED, 0)
    stop(history)
    assert row()["relaunch_at"] is None


def test_a_job_that_trains_again_shows_no_failure_any_more(history: History, row: Any) -> None:
    history.run_until("training")
    history.end_segment(
        1, SegmentEnd.CRASHED, 30, failure=FailureClass.DISK_FULL, error_class="OSError"
    )
    history.allocate_segment(2)
    history.grant_lease(2)
    history.start_pod(2)
    assert row()["failure"] == "disk_full", "until it got over it"
    history.start_training(2)
    shown = row()
    assert (shown["failure"], shown["error_class"], shown["crashes"]) == (None, None, 1)


def test_grace_is_counted_and_shown(history: History, row: Any) -> None:
    history.run_until("training")
    history.end_segment(1, SegmentEnd.LEASE_ENDED, 305, grace_seconds=5)
    assert row()["grace_seconds"] == 5
    assert row()["billed_seconds"] == 300


def test_a_job_that_crashed_too_often_has_failed(history: History, row: Any) -> None:
    history.run_until("allocated")
    for segment in range(1, RELAUNCH_LIMIT + 2):
        if segment > 1:
            history.allocate_segment(segment)
        history.grant_lease(segment)
        history.end_segment(segment, SegmentEnd.CRASHED, 0, error_class="ValueError")
    shown = row()
    assert (shown["status"], shown["phase"], shown["error_class"]) == (
        "failed",
        "failed",
        "ValueError",
    )


def test_what_fails_for_good_says_of_which_class(history: History, row: Any) -> None:
    history.run_until("training")
    history.end_segment(1, SegmentEnd.CRASHED, 30, failure=FailureClass.OUT_OF_MEMORY)
    shown = row()
    assert (shown["status"], shown["failure"]) == ("failed", "out_of_memory")
    assert shown["waiting_since"] is None


def test_a_pause_is_on_its_way_until_the_trainer_is_gone(history: History, row: Any) -> None:
    history.run_until("leased")
    history.pause()
    assert (row()["status"], row()["phase"]) == ("training", "pausing")
    history.start_pod(1)
    history.start_training(1)
    assert row()["phase"] == "pausing", "whatever the trainer does meanwhile"
    history.save_checkpoint(1, 10, 40)
    history.end_segment(1, SegmentEnd.STOPPED, 60)
    shown = row()
    assert (shown["status"], shown["phase"], shown["pause_reason"]) == ("paused", "paused", "owner")
    assert (shown["paused_at"], shown["waiting_since"]) == (NOW, None)
    assert (shown["step"], shown["total_steps"], shown["trained"]) == (10, 30, False)


def test_an_empty_balance_says_so(history: History, row: Any) -> None:
    history.run_until("training")
    history.end_segment(1, SegmentEnd.LEASE_ENDED, 301, grace_seconds=1, can_pay=False)
    assert (row()["status"], row()["pause_reason"]) == ("paused", "balance")


def test_a_resumed_job_waits_at_its_new_rate(history: History, row: Any) -> None:
    history.run_until("training")
    history.pause()
    history.end_segment(1, SegmentEnd.STOPPED, 60)
    history.resume(rate_micros_per_hour=7_200_000)
    shown = row()
    assert (shown["status"], shown["phase"]) == ("training", "waiting for a GPU")
    assert (shown["pause_reason"], shown["paused_at"]) == (None, None)
    assert (shown["rate_micros_per_hour"], shown["waiting_since"]) == (7_200_000, NOW)


def test_a_job_paused_in_evaluation_is_in_it_again(history: History, row: Any) -> None:
    history.run_until("training")
    history.save_checkpoint(1, 30, 80)
    history.start_evaluation(1)
    history.pause()
    history.end_segment(1, SegmentEnd.STOPPED, 90)
    history.resume()
    assert (row()["status"], row()["phase"]) == ("evaluating", "waiting for a GPU")
    history.allocate_segment(2)
    history.grant_lease(2)
    history.start_pod(2)
    history.start_training(2, step=30)
    assert (row()["status"], row()["phase"]) == ("evaluating", "evaluating")
    assert row()["segment_step"] == 30


def test_a_cancelled_job_says_until_when_its_adapter_is_kept(history: History, row: Any) -> None:
    history.run_until("training")
    history.save_checkpoint(1, 10, 40)
    history.cancel()
    assert (row()["status"], row()["phase"]) == ("training", "cancelling")
    history.end_segment(1, SegmentEnd.STOPPED, 60)
    shown = row()
    assert (shown["status"], shown["phase"]) == ("cancelled", "cancelled")
    assert (shown["cancelled_at"], shown["expires_at"]) == (NOW, NOW + RETENTION)
    assert (shown["checkpoint_ref"], shown["expired"]) == ("checkpoints/1/10", False)
    history.expire_adapter()
    shown = row()
    assert (shown["checkpoint_ref"], shown["expired"]) == (None, True)
    assert (shown["checkpoints"], shown["checkpoint_step"]) == ([], 10)


def test_only_the_checkpoints_that_exist_are_shown(history: History, row: Any) -> None:
    history.run_until("training")
    for number, step in enumerate((10, 20, 30)):
        history.save_checkpoint(1, step, 4 * step)
        history.prune_checkpoints(number)
    shown = row()
    assert [each["step"] for each in shown["checkpoints"]] == [20, 30]
    assert (shown["checkpoint_step"], shown["trained"]) == (30, True)
    history.end_segment(1, SegmentEnd.CRASHED, 150)
    history.allocate_segment(2)
    history.reject_checkpoint(2, "checkpoints/1/30")
    shown = row()
    assert [each["ref"] for each in shown["checkpoints"]] == ["checkpoints/1/20"]
    assert (shown["checkpoint_ref"], shown["checkpoint_step"]) == ("checkpoints/1/20", 20)
    assert (shown["step"], shown["trained"]) == (20, False)
    history.reject_checkpoint(2, "checkpoints/1/20")
    shown = row()
    assert (shown["checkpoints"], shown["checkpoint_ref"], shown["step"]) == ([], None, 0)


def test_a_promoted_adapter_shows_its_model(history: History, row: Any) -> None:
    cancel_with_a_checkpoint(history)
    history.promote()
    shown = row()
    assert (shown["status"], shown["promoted"]) == ("cancelled", True)
    assert (shown["model"], shown["adapter_ref"]) == ("ft:tiny:222222222222", "checkpoints/1/10")


def test_adapters_are_due_after_their_time_unless_promoted_or_gone(
    pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    def due(after: timedelta) -> list[Any]:
        fold(JOB_DETAIL)
        with pool.connection() as connection:
            return expired_adapters(connection, NOW + after)

    cancel_with_a_checkpoint(history)
    assert due(RETENTION - timedelta(seconds=1)) == []
    assert due(RETENTION) == [JOB_ID]
    history.expire_adapter()
    assert due(RETENTION) == []


def test_a_promoted_adapter_is_never_due(
    pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    cancel_with_a_checkpoint(history)
    history.promote()
    fold(JOB_DETAIL)
    with pool.connection() as connection:
        assert expired_adapters(connection, NOW + RETENTION) == []


def test_another_account_sees_nothing_of_it(
    pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.run_until("approved")
    fold(JOB_DETAIL)
    with pool.connection() as connection:
        assert job(connection, uuid4(), JOB_ID) is None
        assert jobs_of(connection, uuid4()) == []
        assert [each["job_id"] for each in jobs_of(connection, ACCOUNT_ID)] == [JOB_ID]
