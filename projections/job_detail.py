"""Jobs, one row for each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from psycopg.types.json import Jsonb

from domain.billing.meter import Meter
from domain.capacity.gpu_pool import GpuPool
from domain.core.aggregate import Event
from domain.deployments.deployment import DeploymentStatus
from domain.jobs import events
from domain.jobs.job import JobStatus
from domain.jobs.lifecycle import PauseReason
from infrastructure.store import Connection
from projections.job_launched import apply_segment
from projections.job_row import (
    CANCELLING,
    DDL,
    PAUSING,
    WAITING_FOR_GPU,
    WAITING_TO_RETRY,
    update,
)
from projections.job_saved import apply_checkpoint, give_up_checkpoints
from projections.projection import Cursor, Projection, Row, newest_first

EXPIRED_AT_ONCE = 100

RUNNING = [each for each in JobStatus if each is not JobStatus.PAUSED and not each.is_final]


def apply(cursor: Cursor, event: Event) -> None:
    """Apply one event to the job's row."""
    match event:
        case events.JobApproved():
            _insert(cursor, event)
        case (
            events.SegmentAllocated()
            | Meter.LeaseGranted()
            | events.PodStarted()
            | events.TrainingStarted()
            | events.EvaluationStarted()
            | events.EvaluationCompleted()
            | events.SegmentEnded()
        ):
            apply_segment(cursor, event)
        case events.CheckpointSaved() | events.CheckpointRejected() | events.CheckpointPruned():
            apply_checkpoint(cursor, event)
        case (
            events.Registered()
            | events.EstimateScored()
            | events.MicroBatchHalved()
            | events.JobFailed()
        ):
            _apply_end(cursor, event)
        case events.RelaunchPostponed():
            update(cursor, event, phase=WAITING_TO_RETRY, relaunch_at=event.until)
        case GpuPool.GpusRequested():
            _queue_again(cursor, event)
        case Meter.MinuteMetered() | Meter.LostWorkCredited():
            _apply_money(cursor, event)
        case _:
            _apply_command(cursor, event)


def _apply_end(cursor: Cursor, event: Event) -> None:
    """Apply an event at the end of a segment or a job."""
    match event:
        case events.Registered():
            update(
                cursor,
                event,
                status=JobStatus.REGISTERED,
                phase="registered",
                model=event.model,
                adapter_ref=event.adapter_ref,
                failure=None,
                error_class=None,
                log_ref=None,
            )
        case events.EstimateScored():
            update(
                cursor,
                event,
                actual_seconds=event.actual_seconds,
                actual_micros=event.actual_micros,
            )
        case events.MicroBatchHalved():
            update(cursor, event, halved_micro_batch_size=event.micro_batch_size)
        case events.JobFailed():
            update(
                cursor,
                event,
                status=JobStatus.FAILED,
                phase="failed",
                waiting_since=None,
                failure=event.failure,
                error_class=event.error_class,
                log_ref=event.log_ref,
            )
        case _:
            raise AssertionError(f"unexpected event {type(event).__name__}")


def _apply_command(cursor: Cursor, event: Event) -> None:
    """Apply a command of the owner or the platform."""
    match event:
        case events.PauseRequested():
            update(cursor, event, phase=PAUSING)
        case events.CancelRequested():
            update(cursor, event, phase=CANCELLING)
        case events.JobPaused():
            update(
                cursor,
                event,
                status=JobStatus.PAUSED,
                phase="paused",
                waiting_since=None,
                relaunch_at=None,
                pause_reason=event.reason,
                paused_at=event.timestamp,
            )
        case events.JobResumed():
            _resume(cursor, event)
        case events.JobCancelled():
            _cancel(cursor, event)
        case events.AdapterPromoted():
            update(cursor, event, promoted=True, model=event.model, adapter_ref=event.adapter_ref)
        case events.AdapterExpired():
            update(cursor, event, expired=True)
            give_up_checkpoints(cursor, event)
        case events.ModelDeleted():
            update(cursor, event, model=None, adapter_ref=None)
            give_up_checkpoints(cursor, event)
        case _:
            pass


def _cancel(cursor: Cursor, event: events.JobCancelled) -> None:
    update(
        cursor,
        event,
        status=JobStatus.CANCELLED,
        phase="cancelled",
        waiting_since=None,
        relaunch_at=None,
        pause_reason=None,
        paused_at=None,
        cancelled_at=event.timestamp,
        expires_at=event.expires_at,
    )


def _apply_money(cursor: Cursor, event: Meter.MinuteMetered | Meter.LostWorkCredited) -> None:
    if isinstance(event, Meter.MinuteMetered):
        cursor.execute(
            "UPDATE job_detail SET billed_seconds = billed_seconds + %s, "
            "charged_micros = charged_micros + %s WHERE job_id = %s",
            [event.to_seconds - event.from_seconds, event.amount_micros, event.job_id],
        )
    else:
        cursor.execute(
            "UPDATE job_detail SET credited_micros = credited_micros + %s WHERE job_id = %s",
            [event.amount_micros, event.job_id],
        )


def _queue_again(cursor: Cursor, event: GpuPool.GpusRequested) -> None:
    """Queue a job whose relaunch was postponed. Other jobs are already queued."""
    cursor.execute(
        "UPDATE job_detail SET phase = %s, relaunch_at = NULL, changed_at = %s "
        "WHERE job_id = %s AND relaunch_at IS NOT NULL",
        [WAITING_FOR_GPU, event.timestamp, event.job_id],
    )


def _insert(cursor: Cursor, event: events.JobApproved) -> None:
    plan, estimate = event.plan, event.estimate
    columns = {
        "job_id": event.originator_id,
        "account_id": event.account_id,
        "status": JobStatus.TRAINING,
        "phase": WAITING_FOR_GPU,
        "approved_at": event.timestamp,
        "changed_at": event.timestamp,
        "waiting_since": event.timestamp,
        "dataset_id": plan.dataset_id,
        "validation_dataset_id": plan.validation.dataset_id if plan.validation else None,
        "base_model": plan.base_model,
        "region": plan.region,
        "gpu_type": plan.gpu_type,
        "gpu_count": plan.gpu_count,
        "approved_gpu_count": plan.gpu_count,
        "rate_micros_per_hour": plan.rate_micros_per_hour,
        "hyperparameters": Jsonb(plan.hyperparameters),
        "precision": plan.precision,
        "gradient_checkpointing": plan.gradient_checkpointing,
        "sequence_length": plan.sequence_length,
        "required_bytes": plan.required_bytes,
        "dtype": plan.dtype,
        "truncation": None
        if plan.truncation is None
        else Jsonb(plan.truncation.model_dump(mode="json")),
    }
    if estimate is not None:
        columns |= {
            "estimate": Jsonb(estimate.model_dump(mode="json")),
            "low_seconds": estimate.low_seconds,
            "high_seconds": estimate.high_seconds,
            "low_micros": estimate.low_micros,
            "high_micros": estimate.high_micros,
        }
    cursor.execute(
        f"INSERT INTO job_detail ({', '.join(columns)}) "  # type: ignore[arg-type]
        f"VALUES ({', '.join(['%s'] * len(columns))})",
        list(columns.values()),
    )


def _resume(cursor: Cursor, event: events.JobResumed) -> None:
    update(
        cursor,
        event,
        phase=WAITING_FOR_GPU,
        waiting_since=event.timestamp,
        pause_reason=None,
        paused_at=None,
        rate_micros_per_hour=event.rate_micros_per_hour,
        **({"gpu_count": event.gpu_count} if event.gpu_count is not None else {}),
    )
    cursor.execute(
        "UPDATE job_detail SET status = CASE WHEN trained THEN %s ELSE %s END WHERE job_id = %s",
        [JobStatus.EVALUATING, JobStatus.TRAINING, event.originator_id],
    )


JOB_DETAIL = Projection("job_detail", ("job_detail",), DDL, apply)


def job(connection: Connection, account_id: UUID, job_id: UUID) -> Row | None:
    """Return a job of an account, with the `sequence` of the last event applied to its row."""
    return connection.execute(
        "SELECT job_detail.*, position AS sequence FROM job_detail, projection_positions "
        "WHERE account_id = %s AND job_id = %s AND name = %s",
        [account_id, job_id, JOB_DETAIL.name],
    ).fetchone()


def rows_of(connection: Connection, job_ids: Sequence[UUID]) -> list[Row]:
    """Return some jobs of any account, with the same columns as `job`."""
    return connection.execute(
        "SELECT job_detail.*, position AS sequence FROM job_detail, projection_positions "
        "WHERE job_id = ANY(%s) AND name = %s",
        [list(job_ids), JOB_DETAIL.name],
    ).fetchall()


def jobs_of(
    connection: Connection,
    account_id: UUID,
    after: UUID | None = None,
    limit: int | None = None,
    statuses: Sequence[JobStatus] | None = None,
) -> list[Row]:
    """Return up to `limit` jobs of an account after a given one, newest first."""
    among: LiteralString = "true"
    if statuses is not None:
        among = "row.status = ANY(%(statuses)s)"
    return newest_first(
        connection,
        "job_detail",
        "approved_at",
        "job_id",
        account_id,
        after,
        limit,
        among,
        statuses=list(statuses or ()),
    )


def jobs_by_status(connection: Connection, account_id: UUID) -> dict[JobStatus, int]:
    """Return the number of an account's jobs, by status."""
    rows = connection.execute(
        "SELECT status, count(*) AS jobs FROM job_detail WHERE account_id = %s GROUP BY status",
        [account_id],
    ).fetchall()
    return {JobStatus(row["status"]): row["jobs"] for row in rows}


def jobs_paused_for(connection: Connection, account_id: UUID, reason: PauseReason) -> list[UUID]:
    """Return an account's jobs that are paused for a given reason, in the order of their pauses."""
    rows = connection.execute(
        "SELECT job_id FROM job_detail WHERE account_id = %s AND status = %s "
        "AND pause_reason = %s ORDER BY paused_at, job_id",
        [account_id, JobStatus.PAUSED, reason],
    ).fetchall()
    return [row["job_id"] for row in rows]


def jobs_with_ids(connection: Connection, account_id: UUID, job_ids: Sequence[UUID]) -> list[Row]:
    """Return some jobs of an account, in any order."""
    return connection.execute(
        "SELECT * FROM job_detail WHERE account_id = %s AND job_id = ANY(%s)",
        [account_id, list(job_ids)],
    ).fetchall()


def kept_adapters(connection: Connection, account_id: UUID, now: datetime) -> list[Row]:
    """Return an account's cancelled and failed jobs that can be promoted, newest first."""
    return connection.execute(
        "SELECT * FROM job_detail WHERE account_id = %s AND status = ANY(%s) AND NOT promoted "
        "AND NOT expired AND checkpoint_ref IS NOT NULL "
        "AND (expires_at IS NULL OR expires_at > %s) ORDER BY changed_at DESC, job_id",
        [account_id, [JobStatus.CANCELLED, JobStatus.FAILED], now],
    ).fetchall()


def unfinished_on(connection: Connection, account_id: UUID, dataset_id: UUID) -> list[UUID]:
    """Return an account's unfinished jobs that use a dataset, oldest first."""
    rows = connection.execute(
        "SELECT job_id FROM job_detail WHERE account_id = %s AND status <> ALL(%s) "
        "AND %s IN (dataset_id, validation_dataset_id) ORDER BY approved_at, job_id",
        [account_id, [each for each in JobStatus if each.is_final], dataset_id],
    ).fetchall()
    return [row["job_id"] for row in rows]


def unfinished_on_base(connection: Connection, base_model: str) -> list[UUID]:
    """Return all accounts' unfinished jobs on a base model, oldest first."""
    rows = connection.execute(
        "SELECT job_id FROM job_detail WHERE status <> ALL(%s) AND base_model = %s "
        "ORDER BY approved_at, job_id",
        [[each for each in JobStatus if each.is_final], base_model],
    ).fetchall()
    return [row["job_id"] for row in rows]


def due_relaunches(connection: Connection, now: datetime) -> list[UUID]:
    """Return the jobs whose postponed relaunch is due, in order of their due times."""
    rows = connection.execute(
        "SELECT job_id FROM job_detail WHERE relaunch_at <= %s ORDER BY relaunch_at, job_id", [now]
    ).fetchall()
    return [row["job_id"] for row in rows]


def logged_jobs_over_since(connection: Connection, moment: datetime, limit: int) -> list[UUID]:
    """Return up to `limit` jobs that ended before a time and have log lines, oldest first."""
    rows = connection.execute(
        "SELECT job_id FROM job_detail WHERE status = ANY(%s) AND changed_at < %s "
        "AND EXISTS (SELECT FROM log_lines WHERE log_lines.job_id = job_detail.job_id) "
        "ORDER BY changed_at, job_id LIMIT %s",
        [[each for each in JobStatus if each.is_final], moment, limit],
    ).fetchall()
    return [row["job_id"] for row in rows]


def expired_adapters(connection: Connection, now: datetime) -> list[UUID]:
    """Return cancelled jobs whose retention time has ended, oldest first.

    Promoted jobs and jobs with a deployed checkpoint, even if its deployment failed, are excluded.
    At most `EXPIRED_AT_ONCE` jobs are returned.
    """
    rows = connection.execute(
        "SELECT job_id FROM job_detail WHERE expires_at <= %s AND NOT expired AND NOT promoted "
        "AND NOT EXISTS (SELECT 1 FROM deployments WHERE deployments.job_id = job_detail.job_id "
        "AND deployments.status <> %s) ORDER BY expires_at, job_id LIMIT %s",
        [now, DeploymentStatus.UNDEPLOYED, EXPIRED_AT_ONCE],
    ).fetchall()
    return [row["job_id"] for row in rows]
