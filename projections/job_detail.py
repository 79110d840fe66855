"""One row for each job: everything the detail page says about it."""

from __future__ import annotations

from uuid import UUID

from psycopg.types.json import Jsonb

from domain.aggregate import Event
from domain.job import Job, JobStatus
from domain.meter import Meter
from infrastructure.store import Connection
from projections.projection import Cursor, Projection, Row

DDL = """
CREATE TABLE IF NOT EXISTS job_detail (
    job_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    status text NOT NULL,
    phase text NOT NULL,
    approved_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    dataset_id uuid NOT NULL,
    base_model text NOT NULL,
    region text NOT NULL,
    gpu_type text NOT NULL,
    gpu_count integer NOT NULL,
    rate_micros_per_hour bigint NOT NULL,
    hyperparameters jsonb NOT NULL,
    segment integer NOT NULL DEFAULT 0,
    bound_at timestamptz,
    total_steps integer,
    train_examples integer,
    eval_examples integer,
    checkpoint_step integer,
    checkpoint_loss double precision,
    checkpoint_ref text,
    loss_before double precision,
    loss_after double precision,
    model text,
    adapter_ref text,
    billed_seconds integer NOT NULL DEFAULT 0,
    charged_micros bigint NOT NULL DEFAULT 0,
    credited_micros bigint NOT NULL DEFAULT 0,
    grace_seconds integer NOT NULL DEFAULT 0,
    crashes integer NOT NULL DEFAULT 0,
    error_class text,
    log_ref text
);
CREATE INDEX IF NOT EXISTS job_detail_account ON job_detail (account_id, approved_at)
"""

WAITING_FOR_GPU, WAITING_FOR_LEASE, LAUNCHING, LOADING = (
    "waiting for a GPU",
    "waiting for a lease",
    "launching",
    "loading model and data",
)


def apply(cursor: Cursor, event: Event) -> None:
    """Fold one event into the job's row."""
    match event:
        case Job.JobApproved():
            _insert(cursor, event)
        case Job.SegmentAllocated(segment=segment):
            _update(cursor, event, segment=segment, phase=WAITING_FOR_LEASE, bound_at=None)
        case Meter.LeaseGranted(job_id=job_id):
            _update(cursor, event, job_id, phase=LAUNCHING)
        case Job.PodStarted(bound_at=bound_at):
            _update(cursor, event, phase=LOADING, bound_at=bound_at)
        case Job.TrainingStarted():
            _update(
                cursor,
                event,
                status=JobStatus.TRAINING,
                phase="training",
                total_steps=event.total_steps,
                train_examples=event.train_examples,
                eval_examples=event.eval_examples,
            )
        case Job.CheckpointSaved():
            _update(
                cursor,
                event,
                checkpoint_step=event.step,
                checkpoint_loss=event.train_loss,
                checkpoint_ref=event.ref,
            )
        case Job.EvaluationStarted():
            _update(cursor, event, status=JobStatus.EVALUATING, phase="evaluating")
        case Job.EvaluationCompleted():
            _update(
                cursor,
                event,
                status=JobStatus.TRAINED_PENDING_REGISTER,
                phase="registering",
                loss_before=event.loss_before,
                loss_after=event.loss_after,
            )
        case _:
            _apply_end(cursor, event)


def _apply_end(cursor: Cursor, event: Event) -> None:
    """Fold the events of money and of endings."""
    match event:
        case Job.Registered():
            _update(
                cursor,
                event,
                status=JobStatus.REGISTERED,
                phase="registered",
                model=event.model,
                adapter_ref=event.adapter_ref,
                error_class=None,
                log_ref=None,
            )
        case Job.SegmentEnded():
            _end_segment(cursor, event)
        case Job.JobFailed():
            _update(
                cursor,
                event,
                status=JobStatus.FAILED,
                phase="failed",
                error_class=event.error_class,
                log_ref=event.log_ref,
            )
        case Meter.MinuteMetered():
            cursor.execute(
                "UPDATE job_detail SET billed_seconds = billed_seconds + %s, "
                "charged_micros = charged_micros + %s WHERE job_id = %s",
                [event.to_seconds - event.from_seconds, event.amount_micros, event.job_id],
            )
        case Meter.LostWorkCredited():
            cursor.execute(
                "UPDATE job_detail SET credited_micros = credited_micros + %s WHERE job_id = %s",
                [event.amount_micros, event.job_id],
            )
        case _:
            pass


def _insert(cursor: Cursor, event: Job.JobApproved) -> None:
    plan = event.plan
    cursor.execute(
        "INSERT INTO job_detail (job_id, account_id, status, phase, approved_at, changed_at, "
        "dataset_id, base_model, region, gpu_type, gpu_count, rate_micros_per_hour, "
        "hyperparameters) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [
            event.originator_id,
            event.account_id,
            JobStatus.TRAINING,
            WAITING_FOR_GPU,
            event.timestamp,
            event.timestamp,
            plan.dataset_id,
            plan.base_model,
            plan.region,
            plan.gpu_type,
            plan.gpu_count,
            plan.rate_micros_per_hour,
            Jsonb(plan.hyperparameters),
        ],
    )


def _end_segment(cursor: Cursor, event: Job.SegmentEnded) -> None:
    cursor.execute(
        "UPDATE job_detail SET changed_at = %(at)s, grace_seconds = grace_seconds + %(grace)s, "
        "crashes = crashes + %(crashed)s, "
        "error_class = coalesce(%(error)s, error_class), log_ref = coalesce(%(log)s, log_ref), "
        "phase = CASE WHEN status = %(registered)s THEN phase ELSE %(waiting)s END "
        "WHERE job_id = %(job)s",
        {
            "at": event.timestamp,
            "grace": event.grace_seconds,
            "crashed": int(event.reason == "crashed"),
            "error": event.error_class,
            "log": event.log_ref,
            "registered": JobStatus.REGISTERED,
            "waiting": WAITING_FOR_GPU,
            "job": event.originator_id,
        },
    )


def _update(cursor: Cursor, event: Event, job_id: UUID | None = None, **columns: object) -> None:
    """Set columns of a job's row; the names are this module's own, never a user's."""
    assignments = ", ".join(f"{name} = %s" for name in columns)
    cursor.execute(
        f"UPDATE job_detail SET {assignments}, changed_at = %s WHERE job_id = %s",  # type: ignore[arg-type]
        [*columns.values(), event.timestamp, job_id or event.originator_id],
    )


JOB_DETAIL = Projection("job_detail", ("job_detail",), DDL, apply)


def job(connection: Connection, account_id: UUID, job_id: UUID) -> Row | None:
    """One job of an account."""
    return connection.execute(
        "SELECT * FROM job_detail WHERE account_id = %s AND job_id = %s", [account_id, job_id]
    ).fetchone()


def jobs_of(connection: Connection, account_id: UUID) -> list[Row]:
    """An account's jobs, the newest first."""
    return connection.execute(
        "SELECT * FROM job_detail WHERE account_id = %s ORDER BY approved_at DESC, job_id",
        [account_id],
    ).fetchall()


def jobs_waiting_for_gpu(connection: Connection) -> list[UUID]:
    """Jobs without a segment that need one, the longest waiting first."""
    rows = connection.execute(
        "SELECT job_id FROM job_detail WHERE phase = %s ORDER BY changed_at, job_id",
        [WAITING_FOR_GPU],
    ).fetchall()
    return [row["job_id"] for row in rows]
