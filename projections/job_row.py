"""The row of a job."""

from __future__ import annotations

from uuid import UUID

from domain.core.aggregate import Event
from projections.projection import Cursor

DDL = """
CREATE TABLE IF NOT EXISTS job_detail (
    job_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    status text NOT NULL,
    phase text NOT NULL,
    approved_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    waiting_since timestamptz,
    relaunch_at timestamptz,
    dataset_id uuid NOT NULL,
    validation_dataset_id uuid,
    base_model text NOT NULL,
    region text NOT NULL,
    gpu_type text NOT NULL,
    gpu_count integer NOT NULL,
    approved_gpu_count integer NOT NULL,
    rate_micros_per_hour bigint NOT NULL,
    hyperparameters jsonb NOT NULL,
    precision text NOT NULL,
    gradient_checkpointing boolean NOT NULL,
    sequence_length integer,
    required_bytes bigint,
    dtype text,
    truncation jsonb,
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
    WHERE NOT expired AND NOT promoted;
CREATE INDEX IF NOT EXISTS job_detail_relaunch ON job_detail (relaunch_at)
    WHERE relaunch_at IS NOT NULL
"""
# checkpoints: existing ones, oldest first; checkpoint_* columns describe the newest.
# estimate and its bounds are from the approval; the rate is from the last resume.
# approved_gpu_count never changes, because it determines the batch of a step.
# relaunch_at: set while a relaunch is postponed; waiting_since is then the failure's time.
# segment_step and training_since: start of training in the running segment.

WAITING_TO_RETRY, WAITING_FOR_GPU, WAITING_FOR_LEASE, LAUNCHING, LOADING = (
    "waiting to retry",
    "waiting for a GPU",
    "waiting for a lease",
    "launching",
    "loading model and data",
)
PAUSING, CANCELLING = "pausing", "cancelling"


def advance(cursor: Cursor, event: Event, phase: str, job_id: UUID | None = None) -> None:
    """Set the phase, unless the job is being paused or cancelled."""
    cursor.execute(
        "UPDATE job_detail SET changed_at = %s, "
        "phase = CASE WHEN phase = ANY(%s) THEN phase ELSE %s END WHERE job_id = %s",
        [event.timestamp, [PAUSING, CANCELLING], phase, job_id or event.originator_id],
    )


def update(cursor: Cursor, event: Event, **columns: object) -> None:
    """Update columns of a job's row. Column names must be constants in the code."""
    assignments = ", ".join(f"{name} = %s" for name in columns)
    cursor.execute(
        f"UPDATE job_detail SET {assignments}, changed_at = %s WHERE job_id = %s",  # type: ignore[arg-type]
        [*columns.values(), event.timestamp, event.originator_id],
    )
