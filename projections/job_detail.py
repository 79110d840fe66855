"""One row for each job: everything the detail page says about it."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from psycopg.types.json import Jsonb

from domain.aggregate import Event
from domain.job import Job, JobStatus
from domain.meter import Meter
from infrastructure.store import Connection
from projections.job_saved import apply_checkpoint, give_up_checkpoints
from projections.projection import Cursor, Projection, Row

DDL = """
CREATE TABLE IF NOT EXISTS job_detail (
    job_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    status text NOT NULL,
    phase text NOT NULL,
    approved_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    waiting_since timestamptz,
    dataset_id uuid NOT NULL,
    validation_dataset_id uuid,
    base_model text NOT NULL,
    region text NOT NULL,
    gpu_type text NOT NULL,
    gpu_count integer NOT NULL,
    rate_micros_per_hour bigint NOT NULL,
    hyperparameters jsonb NOT NULL,
    precision text NOT NULL,
    gradient_checkpointing boolean NOT NULL,
    sequence_length integer,
    required_bytes bigint,
    estimate jsonb,
    low_seconds integer,
    high_seconds integer,
    low_micros bigint,
    high_micros bigint,
    actual_seconds integer,
    actual_micros bigint,
    segment integer NOT NULL DEFAULT 0,
    bound_at timestamptz,
    training_since timestamptz,
    segment_step integer,
    step integer NOT NULL DEFAULT 0,
    total_steps integer,
    trained boolean NOT NULL DEFAULT false,
    train_examples integer,
    eval_examples integer,
    checkpoint_step integer,
    checkpoint_loss double precision,
    checkpoint_ref text,
    checkpoints jsonb NOT NULL DEFAULT '[]',
    loss_before double precision,
    loss_after double precision,
    accuracy_before double precision,
    accuracy_after double precision,
    peak_memory_bytes bigint,
    model text,
    adapter_ref text,
    pause_reason text,
    paused_at timestamptz,
    cancelled_at timestamptz,
    expires_at timestamptz,
    expired boolean NOT NULL DEFAULT false,
    promoted boolean NOT NULL DEFAULT false,
    billed_seconds integer NOT NULL DEFAULT 0,
    charged_micros bigint NOT NULL DEFAULT 0,
    credited_micros bigint NOT NULL DEFAULT 0,
    grace_seconds integer NOT NULL DEFAULT 0,
    crashes integer NOT NULL DEFAULT 0,
    failure text,
    shortage jsonb,
    halved_micro_batch_size integer,
    error_class text,
    log_ref text
);
CREATE INDEX IF NOT EXISTS job_detail_account ON job_detail (account_id, approved_at);
CREATE INDEX IF NOT EXISTS job_detail_expires ON job_detail (expires_at)
    WHERE NOT expired AND NOT promoted
"""
# checkpoints: those that exist, the oldest first; the columns before it are of the newest.
# estimate and its bounds are those of the approval; the rate is that of the last resume.
# segment_step and training_since: where and when the running segment began to train.

WAITING_FOR_GPU, WAITING_FOR_LEASE, LAUNCHING, LOADING = (
    "waiting for a GPU",
    "waiting for a lease",
    "launching",
    "loading model and data",
)
PAUSING, CANCELLING = "pausing", "cancelling"

EXPIRED_AT_ONCE = 100


def apply(cursor: Cursor, event: Event) -> None:
    """Fold one event into the job's row."""
    match event:
        case Job.JobApproved():
            _insert(cursor, event)
        case Job.SegmentAllocated(segment=segment):
            _update(
                cursor,
                event,
                segment=segment,
                phase=WAITING_FOR_LEASE,
                waiting_since=None,
                bound_at=None,
                training_since=None,
                segment_step=None,
            )
        case Meter.LeaseGranted(job_id=job_id):
            _advance(cursor, event, LAUNCHING, job_id)
        case Job.PodStarted(bound_at=bound_at):
            _advance(cursor, event, LOADING)
            _update(cursor, event, bound_at=bound_at)
        case Job.CheckpointSaved() | Job.CheckpointRejected() | Job.CheckpointPruned():
            apply_checkpoint(cursor, event)
        case Job.TrainingStarted():
            _start_training(cursor, event)
        case Job.EvaluationStarted():
            _advance(cursor, event, "evaluating")
            _update(cursor, event, status=JobStatus.EVALUATING, step=event.step)
        case Job.EvaluationCompleted():
            _advance(cursor, event, "registering")
            _update(
                cursor,
                event,
                status=JobStatus.TRAINED_PENDING_REGISTER,
                loss_before=event.loss_before,
                loss_after=event.loss_after,
                accuracy_before=event.accuracy_before,
                accuracy_after=event.accuracy_after,
                peak_memory_bytes=event.peak_memory_bytes,
            )
        case (
            Job.Registered()
            | Job.SegmentEnded()
            | Job.EstimateScored()
            | Job.MicroBatchHalved()
            | Job.JobFailed()
        ):
            _apply_end(cursor, event)
        case Meter.MinuteMetered() | Meter.LostWorkCredited():
            _apply_money(cursor, event)
        case _:
            _apply_command(cursor, event)


def _apply_end(cursor: Cursor, event: Event) -> None:
    """Fold what ends a segment, what follows from it, and what ends a job by itself."""
    match event:
        case Job.Registered():
            _update(
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
        case Job.SegmentEnded():
            _end_segment(cursor, event)
        case Job.EstimateScored():
            _update(
                cursor,
                event,
                actual_seconds=event.actual_seconds,
                actual_micros=event.actual_micros,
            )
        case Job.MicroBatchHalved():
            _update(cursor, event, halved_micro_batch_size=event.micro_batch_size)
        case Job.JobFailed():
            _update(
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
            raise AssertionError(f"{type(event).__name__} ends nothing")


def _apply_command(cursor: Cursor, event: Event) -> None:
    """Fold what its owner, or an empty balance, did to a job."""
    match event:
        case Job.PauseRequested():
            _update(cursor, event, phase=PAUSING)
        case Job.CancelRequested():
            _update(cursor, event, phase=CANCELLING)
        case Job.JobPaused():
            _update(
                cursor,
                event,
                status=JobStatus.PAUSED,
                phase="paused",
                waiting_since=None,
                pause_reason=event.reason,
                paused_at=event.timestamp,
            )
        case Job.JobResumed():
            _resume(cursor, event)
        case Job.JobCancelled():
            _update(
                cursor,
                event,
                status=JobStatus.CANCELLED,
                phase="cancelled",
                waiting_since=None,
                pause_reason=None,
                paused_at=None,
                cancelled_at=event.timestamp,
                expires_at=event.expires_at,
            )
        case Job.AdapterPromoted():
            _update(cursor, event, promoted=True, model=event.model, adapter_ref=event.adapter_ref)
        case Job.AdapterExpired():
            _update(cursor, event, expired=True)
            give_up_checkpoints(cursor, event)
        case _:
            pass


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


def _insert(cursor: Cursor, event: Job.JobApproved) -> None:
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
        "rate_micros_per_hour": plan.rate_micros_per_hour,
        "hyperparameters": Jsonb(plan.hyperparameters),
        "precision": plan.precision,
        "gradient_checkpointing": plan.gradient_checkpointing,
        "sequence_length": plan.sequence_length,
        "required_bytes": plan.required_bytes,
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


def _start_training(cursor: Cursor, event: Job.TrainingStarted) -> None:
    """A segment that finds all steps done goes on with the evaluation."""
    if event.step < event.total_steps:
        _update(cursor, event, status=JobStatus.TRAINING)
        _advance(cursor, event, "training")
    else:
        _advance(cursor, event, "evaluating")
    _update(
        cursor,
        event,
        training_since=event.timestamp,
        segment_step=event.step,
        step=event.step,
        total_steps=event.total_steps,
        train_examples=event.train_examples,
        eval_examples=event.eval_examples,
        failure=None,  # of a segment before, which this one has got over
        shortage=None,
        error_class=None,
    )


def _end_segment(cursor: Cursor, event: Job.SegmentEnded) -> None:
    """Until an event beside it says otherwise, the job waits for its next segment."""
    cursor.execute(
        "UPDATE job_detail SET changed_at = %(at)s, grace_seconds = grace_seconds + %(grace)s, "
        "crashes = crashes + %(crashed)s, failure = coalesce(%(failure)s, failure), "
        "shortage = coalesce(%(shortage)s, shortage), "
        "error_class = coalesce(%(error)s, error_class), log_ref = coalesce(%(log)s, log_ref) "
        "WHERE job_id = %(job)s",
        {
            "at": event.timestamp,
            "grace": event.grace_seconds,
            "crashed": int(event.reason == "crashed"),
            "failure": event.failure,
            "shortage": Jsonb(event.shortage.model_dump()) if event.shortage else None,
            "error": event.error_class,
            "log": event.log_ref,
            "job": event.originator_id,
        },
    )
    cursor.execute(
        "UPDATE job_detail SET phase = %(waiting)s, waiting_since = %(at)s, "
        "step = coalesce(checkpoint_step, 0), "
        "status = CASE WHEN status = %(pending)s THEN %(evaluating)s ELSE status END "
        "WHERE job_id = %(job)s AND status <> %(registered)s",
        {
            "at": event.timestamp,
            "waiting": WAITING_FOR_GPU,
            "pending": JobStatus.TRAINED_PENDING_REGISTER,
            "evaluating": JobStatus.EVALUATING,
            "registered": JobStatus.REGISTERED,
            "job": event.originator_id,
        },
    )


def _resume(cursor: Cursor, event: Job.JobResumed) -> None:
    _update(
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


def _advance(cursor: Cursor, event: Event, phase: str, job_id: UUID | None = None) -> None:
    """Enter a phase, unless the job is on its way to a pause or a cancel."""
    cursor.execute(
        "UPDATE job_detail SET changed_at = %s, "
        "phase = CASE WHEN phase = ANY(%s) THEN phase ELSE %s END WHERE job_id = %s",
        [event.timestamp, [PAUSING, CANCELLING], phase, job_id or event.originator_id],
    )


def _update(cursor: Cursor, event: Event, **columns: object) -> None:
    """Set columns of a job's row; the names are this module's own, never a user's."""
    assignments = ", ".join(f"{name} = %s" for name in columns)
    cursor.execute(
        f"UPDATE job_detail SET {assignments}, changed_at = %s WHERE job_id = %s",  # type: ignore[arg-type]
        [*columns.values(), event.timestamp, event.originator_id],
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


def expired_adapters(connection: Connection, now: datetime) -> list[UUID]:
    """Cancelled jobs whose retention time is over and that nobody promoted, the oldest ones first.

    No more than one round deletes.
    """
    rows = connection.execute(
        "SELECT job_id FROM job_detail WHERE expires_at <= %s AND NOT expired AND NOT promoted "
        "ORDER BY expires_at, job_id LIMIT %s",
        [now, EXPIRED_AT_ONCE],
    ).fetchall()
    return [row["job_id"] for row in rows]
