"""A job's row after each step of its history."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from psycopg.sql import SQL, Identifier

from domain.estimating.estimate import Estimate
from domain.jobs.failures import FailureClass
from domain.jobs.job import RELAUNCH_DELAYS, RELAUNCH_LIMIT, SegmentEnd
from domain.jobs.lifecycle import PauseReason
from infrastructure.postgres.store import Connection, scalar
from projections import ACCOUNTS, JOB_DETAIL
from projections.job_detail import (
    due_relaunches,
    expired_adapters,
    job,
    jobs_of,
    running_jobs,
    suspended_jobs,
)
from tests.builders.commands import NOW
from tests.builders.examples import ACCOUNT_ID, ESTIMATE, JOB_ID, PLAN
from tests.builders.history import BOUND_AT, RETENTION, History
from tests.projections.conftest import Fold

Columns = Callable[..., Any]


@pytest.fixture
def columns(fold: Fold) -> Columns:
    """Return the values of some columns of the job's row."""

    def read(*names: str) -> Any:
        row = job(fold(JOB_DETAIL), ACCOUNT_ID, JOB_ID)
        assert row is not None
        values = [row[name] for name in names]
        return tuple(values) if len(values) > 1 else values[0]

    return read


def crash_twice(history: History) -> None:
    history.run_until("training")
    history.end_segment(1, SegmentEnd.CRASHED, 30)
    history.allocate_segment(2)
    history.grant_lease(2)
    history.end_segment(2, SegmentEnd.CRASHED, 0)


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
def test_the_phase_is_what_the_job_waits_for(
    history: History, columns: Columns, chapter: str, phase: str
) -> None:
    history.run_until(chapter)
    assert columns("status", "phase") == ("training", phase)


def test_a_row_has_the_approved_plan_and_estimate(history: History, columns: Columns) -> None:
    history.run_until("approved")
    assert columns("base_model", "dataset_id", "hyperparameters", "required_bytes") == (
        *("tiny", PLAN.dataset_id, PLAN.hyperparameters),
        1_500_000_000,
    )
    assert columns("precision", "gradient_checkpointing", "sequence_length") == ("bf16", False, 128)
    assert Estimate.model_validate(columns("estimate")) == ESTIMATE
    assert columns("low_seconds", "high_seconds", "low_micros", "high_micros") == (
        *(120, 156),
        *(120_000, 156_000),
    )
    assert columns("rate_micros_per_hour", "waiting_since") == (3_600_000, NOW)


def test_training_shows_steps_and_the_last_checkpoint(history: History, columns: Columns) -> None:
    history.run_until("training")
    history.save_checkpoint(1, 10, 40)
    assert columns("bound_at", "segment_step", "training_since") == (BOUND_AT, 0, NOW)
    assert columns("total_steps", "train_examples", "eval_examples") == (30, 95, 5)
    assert columns("checkpoint_step", "checkpoint_loss") == (10, 2.5)
    assert columns("step", "trained", "waiting_since") == (10, False, None)
    history.save_checkpoint(1, 30, 80)
    assert columns("step", "trained") == (30, True)


def test_a_finished_job_has_its_model_metrics_and_bill(history: History, columns: Columns) -> None:
    history.run_with_a_crash()
    assert columns("status", "phase", "segment", "crashes") == ("registered", "registered", 2, 1)
    assert columns("model", "adapter_ref") == ("ft:tiny:222222222222", "jobs/a/adapter")
    assert columns("loss_before", "loss_after", "accuracy_before", "accuracy_after") == (
        *(3.0, 2.0),
        *(0.4, 0.55),
    )
    assert columns("billed_seconds", "charged_micros", "credited_micros") == (230, 230_000, 60_000)
    assert columns("actual_seconds", "actual_micros") == (170, 170_000)
    assert columns("peak_memory_bytes") == 1_200_000_000
    assert columns("failure", "error_class", "log_ref") == (None, None, None)


@pytest.mark.parametrize(
    ("steps", "losses"), [((20, 30), [None, 2.0]), ((20,), [None])], ids=["last step", "earlier"]
)
def test_only_a_checkpoint_of_the_last_step_has_the_final_loss(
    history: History, columns: Columns, steps: tuple[int, ...], losses: list[float | None]
) -> None:
    history.run_until("training")
    for step in steps:
        history.save_checkpoint(1, step, 2 * step)
    history.complete(1)
    assert [each["eval_loss"] for each in columns("checkpoints")] == losses


def test_a_crash_has_its_cause_until_the_job_trains_again(
    history: History, columns: Columns
) -> None:
    history.run_until("training")
    history.end_segment(
        1, SegmentEnd.CRASHED, 30, failure=FailureClass.DISK_FULL, error_class="OSError"
    )
    assert columns("status", "phase", "crashes") == ("training", "waiting for a GPU", 1)
    assert columns("failure", "error_class") == ("disk_full", "OSError")
    assert columns("log_ref", "waiting_since") == ("logs/tail", NOW)
    history.allocate_segment(2)
    history.grant_lease(2)
    history.start_pod(2)
    assert columns("failure") == "disk_full"
    history.start_training(2)
    assert columns("failure", "error_class", "crashes") == (None, None, 1)


def test_a_postponed_relaunch_is_due_after_its_delay(
    history: History, columns: Columns, connection: Connection
) -> None:
    crash_twice(history)
    until = NOW + RELAUNCH_DELAYS[1]
    assert columns("phase", "relaunch_at") == ("waiting to retry", until)
    assert due_relaunches(connection, until - timedelta(seconds=1)) == []
    assert due_relaunches(connection, until) == [JOB_ID]
    history.request_gpus(3)
    assert columns("phase", "relaunch_at") == ("waiting for a GPU", None)
    assert due_relaunches(connection, until) == []


@pytest.mark.parametrize("stop", [History.pause, History.cancel])
def test_a_stopped_job_has_no_relaunch(history: History, columns: Columns, stop: Any) -> None:
    crash_twice(history)
    stop(history)
    assert columns("relaunch_at") is None


def test_grace_is_counted_but_not_billed(history: History, columns: Columns) -> None:
    history.run_until("training")
    history.end_segment(1, SegmentEnd.LEASE_ENDED, 305, grace_seconds=5)
    assert columns("grace_seconds", "billed_seconds") == (5, 300)


def test_a_job_that_crashes_too_often_fails(history: History, columns: Columns) -> None:
    history.run_until("allocated")
    for segment in range(1, RELAUNCH_LIMIT + 2):
        if segment > 1:
            history.allocate_segment(segment)
        history.grant_lease(segment)
        history.end_segment(segment, SegmentEnd.CRASHED, 0, error_class="ValueError")
    assert columns("status", "phase", "error_class") == ("failed", "failed", "ValueError")


def test_a_failed_job_has_its_failure_class(history: History, columns: Columns) -> None:
    history.run_until("training")
    history.end_segment(1, SegmentEnd.CRASHED, 30, failure=FailureClass.OUT_OF_MEMORY)
    assert columns("status", "failure", "waiting_since") == ("failed", "out_of_memory", None)


def test_a_job_is_pausing_until_its_trainer_ends(history: History, columns: Columns) -> None:
    history.run_until("leased")
    history.pause()
    assert columns("status", "phase") == ("training", "pausing")
    history.start_pod(1)
    history.start_training(1)
    assert columns("phase") == "pausing"
    history.save_checkpoint(1, 10, 40)
    history.end_segment(1, SegmentEnd.STOPPED, 60)
    assert columns("status", "phase", "pause_reason") == ("paused", "paused", "owner")
    assert columns("paused_at", "waiting_since") == (NOW, None)
    assert columns("step", "total_steps", "trained") == (10, 30, False)


def test_an_empty_balance_is_the_reason_of_a_pause(history: History, columns: Columns) -> None:
    history.run_until("training")
    history.end_segment(
        1, SegmentEnd.LEASE_ENDED, 301, grace_seconds=1, shortfall=PauseReason.BALANCE
    )
    assert columns("status", "pause_reason") == ("paused", "balance")


def test_a_resumed_job_waits_at_its_new_rate(history: History, columns: Columns) -> None:
    history.run_until("training")
    history.pause()
    history.end_segment(1, SegmentEnd.STOPPED, 60)
    history.resume(rate_micros_per_hour=7_200_000)
    assert columns("status", "phase") == ("training", "waiting for a GPU")
    assert columns("pause_reason", "paused_at") == (None, None)
    assert columns("rate_micros_per_hour", "waiting_since") == (7_200_000, NOW)


def test_a_job_paused_in_evaluation_resumes_in_evaluation(
    history: History, columns: Columns
) -> None:
    history.run_until("training")
    history.save_checkpoint(1, 30, 80)
    history.start_evaluation(1)
    history.pause()
    history.end_segment(1, SegmentEnd.STOPPED, 90)
    history.resume()
    assert columns("status", "phase") == ("evaluating", "waiting for a GPU")
    history.allocate_segment(2)
    history.grant_lease(2)
    history.start_pod(2)
    history.start_training(2, step=30)
    assert columns("status", "phase", "segment_step") == ("evaluating", "evaluating", 30)


def test_a_cancelled_job_keeps_its_checkpoint_until_it_expires(
    history: History, columns: Columns
) -> None:
    history.run_until("training")
    history.save_checkpoint(1, 10, 40)
    history.cancel()
    assert columns("status", "phase") == ("training", "cancelling")
    history.end_segment(1, SegmentEnd.STOPPED, 60)
    assert columns("status", "phase") == ("cancelled", "cancelled")
    assert columns("cancelled_at", "expires_at") == (NOW, NOW + RETENTION)
    assert columns("checkpoint_ref", "expired") == ("checkpoints/1/10", False)
    history.expire_adapter()
    assert columns("checkpoint_ref", "expired") == (None, True)
    assert columns("checkpoints", "checkpoint_step") == ([], 10)


def test_pruned_and_rejected_checkpoints_are_removed(history: History, columns: Columns) -> None:
    history.run_until("training")
    for number, step in enumerate((10, 20, 30)):
        history.save_checkpoint(1, step, 4 * step)
        history.prune_checkpoints(number)
    assert [each["step"] for each in columns("checkpoints")] == [20, 30]
    assert columns("checkpoint_step", "trained") == (30, True)
    history.end_segment(1, SegmentEnd.CRASHED, 150)
    history.allocate_segment(2)
    history.reject_checkpoint(2, "checkpoints/1/30")
    assert [each["ref"] for each in columns("checkpoints")] == ["checkpoints/1/20"]
    assert columns("checkpoint_ref", "checkpoint_step") == ("checkpoints/1/20", 20)
    assert columns("step", "trained") == (20, False)
    history.reject_checkpoint(2, "checkpoints/1/20")
    assert columns("checkpoints", "checkpoint_ref", "step") == ([], None, 0)


def test_adapters_expire_after_their_retention_time(history: History, fold: Fold) -> None:
    cancel_with_a_checkpoint(history)
    assert expired_adapters(fold(JOB_DETAIL), NOW + RETENTION - timedelta(seconds=1)) == []
    assert expired_adapters(fold(JOB_DETAIL), NOW + RETENTION) == [JOB_ID]
    history.expire_adapter()
    assert expired_adapters(fold(JOB_DETAIL), NOW + RETENTION) == []


def test_a_promoted_adapter_is_a_model_and_never_expires(
    history: History, columns: Columns, connection: Connection
) -> None:
    cancel_with_a_checkpoint(history)
    history.promote()
    assert columns("status", "promoted") == ("cancelled", True)
    assert columns("model", "adapter_ref") == ("ft:tiny:222222222222", "checkpoints/1/10")
    assert expired_adapters(connection, NOW + RETENTION) == []


def test_another_account_cannot_read_the_job(history: History, fold: Fold) -> None:
    history.run_until("approved")
    connection = fold(JOB_DETAIL)
    assert job(connection, uuid4(), JOB_ID) is None
    assert jobs_of(connection, uuid4()) == []
    assert [each["job_id"] for each in jobs_of(connection, ACCOUNT_ID)] == [JOB_ID]


def test_the_jobs_of_suspended_accounts_are_found_through_indexes(
    history: History, fold: Fold
) -> None:
    history.run_until("training")
    history.suspend()
    connection = fold(ACCOUNTS, JOB_DETAIL)
    with connection.transaction():
        fill(connection)
        connection.execute("SET LOCAL enable_seqscan = off")
        assert suspended_jobs(connection) == [JOB_ID]
        accounts, by_status, running = (
            scalar(connection, "SELECT pg_stat_get_xact_numscans(%s::regclass)", [index])
            for index in ("accounts_suspended", "job_detail_status", "job_detail_running")
        )
    assert accounts
    assert by_status or running


def test_the_oldest_running_jobs_are_found_through_an_index(history: History, fold: Fold) -> None:
    history.run_until("training")
    connection = fold(ACCOUNTS, JOB_DETAIL)
    with connection.transaction():
        fill(connection)
        connection.execute("SET LOCAL enable_seqscan = off")
        (found,) = running_jobs(connection, 10)
        scans = scalar(
            connection, "SELECT pg_stat_get_xact_numscans('job_detail_running'::regclass)"
        )
    assert (found["job_id"], found["jobs"]) == (JOB_ID, 1)
    assert scans


def fill(connection: Connection) -> None:
    """Add many active accounts, and ended jobs of the suspended one."""
    for table, columns in (
        ("accounts", "account_id = gen_random_uuid(), suspension = NULL"),
        ("job_detail", "job_id = gen_random_uuid(), status = 'registered'"),
    ):
        connection.execute(
            SQL(
                "CREATE TEMPORARY TABLE more AS SELECT row.* FROM {table} AS row, "
                "generate_series(1, 2000); UPDATE more SET {columns}; "
                "INSERT INTO {table} SELECT * FROM more; DROP TABLE more"
            ).format(table=Identifier(table), columns=SQL(columns))
        )
