"""Jobs, one row for each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from domain.billing.meter import Meter
from domain.capacity.gpu_pool import GpuPool
from domain.core.aggregate import Event
from domain.core.recorded import Recorded
from domain.deployments.deployment import DeploymentStatus
from domain.jobs import events
from domain.jobs.events import job_of
from domain.jobs.job import Job
from domain.jobs.lifecycle import JobStatus, PauseReason
from infrastructure.postgres.store import Connection
from projections.merged_rows import MergedRows
from projections.projection import (
    SEARCHED_IDS,
    Cursor,
    NewestFirst,
    Projection,
    Row,
    lowest_position,
)

RUNNING = [each for each in JobStatus if each is not JobStatus.PAUSED and not each.is_final]
FINAL = [each for each in JobStatus if each.is_final]

IS_RUNNING = "status IN ('" + "', '".join(RUNNING) + "')"
"""SQL condition, as the index of running jobs has it."""

DDL = f"""
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
    continued_from text,
    continued_job_id uuid,
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
    truncation jsonb NOT NULL,
    estimate jsonb,
    low_seconds integer,
    high_seconds integer,
    low_micros bigint,
    high_micros bigint,
    max_cost_micros bigint,
    guaranteed_micros bigint,
    actual_seconds integer,
    actual_micros bigint,
    segment integer NOT NULL DEFAULT 0,
    bound_at timestamptz,
    training_since timestamptz,
    segment_step integer,
    step integer NOT NULL DEFAULT 0,
    total_steps integer,
    planned_steps integer,
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
    registered_step integer,
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
    covered_seconds integer NOT NULL DEFAULT 0,
    covered_micros bigint NOT NULL DEFAULT 0,
    grace_seconds integer NOT NULL DEFAULT 0,
    crashes integer NOT NULL DEFAULT 0,
    failure text,
    shortage jsonb,
    halved_micro_batch_size integer,
    error_class text,
    log_ref text,
    reward_margin double precision,
    lost_best_step integer,
    lost_best_loss double precision
);
CREATE INDEX IF NOT EXISTS job_detail_account ON job_detail (account_id, approved_at);
CREATE INDEX IF NOT EXISTS job_detail_status ON job_detail (account_id, status);
CREATE INDEX IF NOT EXISTS job_detail_expires ON job_detail (expires_at)
    WHERE NOT expired AND NOT promoted;
CREATE INDEX IF NOT EXISTS job_detail_relaunch ON job_detail (relaunch_at)
    WHERE relaunch_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS job_detail_running ON job_detail (approved_at, job_id)
    WHERE {IS_RUNNING}
"""
# checkpoints: those that are not deleted, oldest first; the columns checkpoint_* describe the
# newest. estimate and its bounds are from the approval; the rate is from the last resume.
# guaranteed_micros is the charge at which the guarantee begins to cover the job; null: none. The
# billed seconds include the covered ones.
# planned_steps is set if training stopped early; total_steps is then the step of the stop.
# registered_step is the step of the evaluated state, if the job registers the best state. lost_best
# is that state, if its checkpoint was lost and another one is registered.
# approved_gpu_count never changes, because it determines the batch of a step. relaunch_at is set
# while a relaunch is postponed; waiting_since is then the time of the failure. segment_step and
# training_since describe the start of training in the running segment.

WAITING_TO_RETRY, WAITING_FOR_GPU, WAITING_FOR_LEASE, LAUNCHING, LOADING = (
    "waiting to retry",
    "waiting for a GPU",
    "waiting for a lease",
    "launching",
    "loading model and data",
)
PAUSING, CANCELLING = "pausing", "cancelling"
STOPPING = (PAUSING, CANCELLING)
"""Phases that a job keeps while its segment runs on."""

BETWEEN_SEGMENTS = (
    *(WAITING_TO_RETRY, WAITING_FOR_GPU),
    *("registered", "paused", "failed", "cancelled"),
)
"""Phases of a job whose newest segment does not need more evidence."""

MAX_EXPIRED = 100

CHECKPOINT = {"ref", "segment", "step", "train_loss", "eval_loss", "total_bytes"}
"""Fields of a checkpoint that the column `checkpoints` has."""

STARTED = {
    "relaunch_at": None,
    "step": 0,
    "total_steps": None,
    "trained": False,
    "checkpoint_step": None,
    "checkpoints": [],
    "billed_seconds": 0,
    "charged_micros": 0,
    "credited_micros": 0,
    "covered_seconds": 0,
    "covered_micros": 0,
    "grace_seconds": 0,
    "crashes": 0,
}
"""Columns of a new job on whose values later changes depend."""

READ = ("status", "phase", *STARTED)


def apply(cursor: Cursor, batch: Sequence[Recorded]) -> None:
    """Apply events to the rows of jobs. Read and write each row once, because rows are wide."""
    jobs = MergedRows(cursor, "job_detail", "job_id")
    jobs.load({job_id for each in batch if (job_id := job_of(each.event))}, READ)
    for each in batch:
        event = each.event
        if isinstance(event, events.JobApproved):
            _insert(jobs, event)
        elif (job_id := job_of(event)) and (job := jobs.row(job_id)) is not None:
            _apply(jobs, job, event)
    jobs.write()


def _apply(jobs: MergedRows, job: Row, event: Event) -> None:
    """Apply an event to a job, whose row is `job`."""
    match event:
        case Meter.MinuteMetered():
            jobs.update(
                event.job_id,
                billed_seconds=job["billed_seconds"] + event.to_seconds - event.from_seconds,
                charged_micros=job["charged_micros"] + event.amount_micros,
                covered_seconds=job["covered_seconds"] + event.covered_seconds,
                covered_micros=job["covered_micros"] + (event.covered_micros or 0),
            )
        case events.SegmentAllocated():
            _change(
                jobs,
                event,
                segment=event.segment,
                phase=WAITING_FOR_LEASE,
                waiting_since=None,
                bound_at=None,
                training_since=None,
                segment_step=None,
            )
        case Meter.LeaseGranted():
            _advance(jobs, job, event, LAUNCHING)
        case events.PodStarted():
            _advance(jobs, job, event, LOADING, bound_at=event.bound_at)
        case events.TrainingStarted():
            _start_training(jobs, job, event)
        case events.CheckpointSaved() | events.CheckpointRejected() | events.CheckpointPruned():
            _change_checkpoints(jobs, job, event)
        case events.TrainingStoppedEarly():
            _change(
                jobs,
                event,
                step=event.step,
                total_steps=event.step,
                trained=True,
                planned_steps=event.planned_steps,
            )
        case events.EvaluationStarted():
            _advance(jobs, job, event, "evaluating", status=JobStatus.EVALUATING, step=event.step)
        case events.EvaluationCompleted():
            _advance(
                jobs,
                job,
                event,
                "registering",
                status=JobStatus.TRAINED_PENDING_REGISTER,
                loss_before=event.loss_before,
                loss_after=event.loss_after,
                accuracy_before=event.accuracy_before,
                accuracy_after=event.accuracy_after,
                reward_margin=event.reward_margin,
                peak_memory_bytes=event.peak_memory_bytes,
                registered_step=event.step,
                lost_best_step=event.lost_best_step,
                lost_best_loss=event.lost_best_loss,
            )
            final = event.loss_after if event.final_loss is None else event.final_loss
            if job["checkpoints"] and job["checkpoints"][-1]["step"] == job["total_steps"]:
                *earlier, last = job["checkpoints"]
                _change(jobs, event, checkpoints=[*earlier, last | {"eval_loss": final}])
        case events.Registered():
            _change(
                jobs,
                event,
                status=JobStatus.REGISTERED,
                phase="registered",
                model=event.model,
                adapter_ref=event.adapter_ref,
                failure=None,
                error_class=None,
                log_ref=None,
            )
        case events.SegmentEnded():
            _end_segment(jobs, job, event)
        case events.RelaunchPostponed():
            _change(jobs, event, phase=WAITING_TO_RETRY, relaunch_at=event.until)
        case GpuPool.GpusRequested() if job["relaunch_at"] is not None:
            _change(jobs, event, phase=WAITING_FOR_GPU, relaunch_at=None)
        case events.MicroBatchHalved():
            _change(jobs, event, halved_micro_batch_size=event.micro_batch_size)
        case events.EstimateScored():
            _change(
                jobs,
                event,
                actual_seconds=event.actual_seconds,
                actual_micros=event.actual_micros,
            )
        case events.JobFailed():
            _change(
                jobs,
                event,
                status=JobStatus.FAILED,
                phase="failed",
                waiting_since=None,
                failure=event.failure,
                error_class=event.error_class,
                log_ref=event.log_ref,
            )
        case events.PauseRequested():
            _change(jobs, event, phase=PAUSING)
        case events.MaxCostChanged():
            _change(jobs, event, max_cost_micros=event.max_cost_micros)
        case events.JobPaused():
            _change(
                jobs,
                event,
                status=JobStatus.PAUSED,
                phase="paused",
                waiting_since=None,
                relaunch_at=None,
                pause_reason=event.reason,
                paused_at=event.timestamp,
            )
        case events.JobResumed():
            _resume(jobs, job, event)
        case events.CancelRequested():
            _change(jobs, event, phase=CANCELLING)
        case events.JobCancelled():
            _change(
                jobs,
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
        case events.AdapterPromoted():
            _change(jobs, event, promoted=True, model=event.model, adapter_ref=event.adapter_ref)
        case events.AdapterExpired():
            _change(jobs, event, expired=True, checkpoints=[], checkpoint_ref=None)
        case events.ModelDeleted():
            _change(
                jobs,
                event,
                model=None,
                adapter_ref=None,
                checkpoints=[],
                checkpoint_ref=None,
            )
        case Meter.LostWorkCredited():
            credited = job["credited_micros"] + event.amount_micros
            jobs.update(event.job_id, credited_micros=credited)
        case _:
            pass


def _change(jobs: MergedRows, event: Event, **columns: object) -> None:
    jobs.update(_job(event), changed_at=event.timestamp, **columns)


def _job(event: Event) -> UUID:
    job_id = job_of(event)
    assert job_id is not None
    return job_id


def _advance(jobs: MergedRows, job: Row, event: Event, phase: str, **columns: object) -> None:
    """Update columns. Also update the phase, unless the job is being paused or cancelled."""
    kept = {} if job["phase"] in STOPPING else {"phase": phase}
    _change(jobs, event, **kept, **columns)


def _insert(jobs: MergedRows, event: events.JobApproved) -> None:
    plan, estimate = event.plan, event.estimate
    jobs.insert(
        event.originator_id,
        account_id=event.account_id,
        status=JobStatus.TRAINING,
        phase=WAITING_FOR_GPU,
        approved_at=event.timestamp,
        changed_at=event.timestamp,
        waiting_since=event.timestamp,
        dataset_id=plan.dataset_id,
        validation_dataset_id=plan.validation.dataset_id if plan.validation else None,
        base_model=plan.base_model,
        continued_from=plan.start.model if plan.start else None,
        continued_job_id=plan.start.job_id if plan.start else None,
        region=plan.region,
        gpu_type=plan.gpu_type,
        gpu_count=plan.gpu_count,
        approved_gpu_count=plan.gpu_count,
        rate_micros_per_hour=plan.rate_micros_per_hour,
        hyperparameters=plan.hyperparameters,
        precision=plan.precision,
        gradient_checkpointing=plan.gradient_checkpointing,
        sequence_length=plan.sequence_length,
        required_bytes=plan.required_bytes,
        dtype=plan.dtype,
        truncation=plan.truncation,
        estimate=estimate,
        low_seconds=estimate.low_seconds,
        high_seconds=estimate.high_seconds,
        low_micros=estimate.low_micros,
        high_micros=estimate.high_micros,
        max_cost_micros=event.max_cost_micros,
        guaranteed_micros=event.guarantee and event.guarantee.micros,
        **STARTED,
    )


def _start_training(jobs: MergedRows, job: Row, event: events.TrainingStarted) -> None:
    """Start training, or the evaluation if all steps are done."""
    started = {
        "training_since": event.timestamp,
        "segment_step": event.step,
        "step": event.step,
        "total_steps": event.total_steps,
        "train_examples": event.train_examples,
        "eval_examples": event.eval_examples,
    }
    cleared = dict.fromkeys(("failure", "shortage", "error_class"))  # of the previous segment
    if event.step < event.total_steps:
        status = {"status": JobStatus.TRAINING, "planned_steps": None}
        _advance(jobs, job, event, "training", **status, **started, **cleared)
    else:
        _advance(jobs, job, event, "evaluating", **started, **cleared)


def _change_checkpoints(
    jobs: MergedRows,
    job: Row,
    event: events.CheckpointSaved | events.CheckpointRejected | events.CheckpointPruned,
) -> None:
    if isinstance(event, events.CheckpointSaved):
        saved = [*job["checkpoints"], event.model_dump(mode="json", include=CHECKPOINT)]
    else:
        saved = [each for each in job["checkpoints"] if each["ref"] != event.ref]
    last = saved[-1] if saved else dict.fromkeys(CHECKPOINT)
    newest, total = last["step"], job["total_steps"]
    _change(
        jobs,
        event,
        checkpoints=saved,
        checkpoint_step=newest,
        checkpoint_loss=last["train_loss"],
        checkpoint_ref=last["ref"],
        trained=newest is not None and total is not None and newest >= total,
    )
    if not isinstance(event, events.CheckpointPruned):
        _change(jobs, event, step=newest or 0)


def _end_segment(jobs: MergedRows, job: Row, event: events.SegmentEnded) -> None:
    """End a segment. The job is queued for its next segment, unless a later event changes this."""
    failed = {
        "failure": event.failure,
        "shortage": event.shortage,
        "error_class": event.error_class,
        "log_ref": event.log_ref,
    }
    _change(
        jobs,
        event,
        grace_seconds=job["grace_seconds"] + event.grace_seconds,
        crashes=job["crashes"] + int(event.reason == "crashed"),
        **{name: value for name, value in failed.items() if value is not None},
    )
    if job["status"] == JobStatus.REGISTERED:
        return
    _change(
        jobs,
        event,
        phase=WAITING_FOR_GPU,
        waiting_since=event.timestamp,
        step=job["checkpoint_step"] or 0,
    )
    if job["status"] == JobStatus.TRAINED_PENDING_REGISTER:
        _change(jobs, event, status=JobStatus.EVALUATING)


def _resume(jobs: MergedRows, job: Row, event: events.JobResumed) -> None:
    _change(
        jobs,
        event,
        status=JobStatus.EVALUATING if job["trained"] else JobStatus.TRAINING,
        phase=WAITING_FOR_GPU,
        waiting_since=event.timestamp,
        pause_reason=None,
        paused_at=None,
        rate_micros_per_hour=event.rate_micros_per_hour,
        guaranteed_micros=event.guarantee and event.guarantee.micros,
        **({} if event.gpu_count is None else {"gpu_count": event.gpu_count}),
    )


JOB_DETAIL = Projection(
    "job_detail",
    ("job_detail",),
    DDL,
    (
        Job,
        GpuPool.GpusRequested,
        Meter.LeaseGranted,
        Meter.MinuteMetered,
        Meter.LostWorkCredited,
    ),
    apply,
    fold=2,
)
NEWEST_JOBS = NewestFirst("job_detail", time="approved_at", key="job_id")


def job(connection: Connection, account_id: UUID, job_id: UUID) -> Row | None:
    """Return the row of an account's job, or None.

    `sequence` is the notification ID of the last event that was applied to the row.
    """
    found = rows_of(connection, [job_id])
    return found[0] if found and found[0]["account_id"] == account_id else None


def rows_of(connection: Connection, job_ids: Sequence[UUID]) -> list[Row]:
    """Return the rows of the given jobs of any account, with the columns of `job`."""
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
    """Return up to `limit` jobs of an account after the job `after`, newest first."""
    if statuses is None:
        return NEWEST_JOBS.page(connection, account_id, after, limit)
    condition: LiteralString = "row.status = ANY(%(statuses)s)"
    return NEWEST_JOBS.page(
        connection, account_id, after, limit, condition, statuses=list(statuses)
    )


def jobs_by_status(connection: Connection, account_id: UUID) -> dict[JobStatus, int]:
    """Return the numbers of an account's jobs by status."""
    rows = connection.execute(
        "SELECT status, count(*) AS jobs FROM job_detail WHERE account_id = %s GROUP BY status",
        [account_id],
    ).fetchall()
    return {JobStatus(row["status"]): row["jobs"] for row in rows}


def jobs_with_ids(connection: Connection, account_id: UUID, job_ids: Sequence[UUID]) -> list[Row]:
    """Return the rows of those of the given jobs that belong to the account, in any order."""
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


def _job_ids(connection: Connection, condition: LiteralString, *values: object) -> list[UUID]:
    """Return the IDs of the jobs that meet a condition. The condition may end with an ORDER BY."""
    rows = connection.execute(f"SELECT job_id FROM job_detail WHERE {condition}", values)
    return [row["job_id"] for row in rows]


def jobs_paused_for(connection: Connection, account_id: UUID, reason: PauseReason) -> list[UUID]:
    """Return an account's jobs that are paused for a reason, ordered by the time of the pause."""
    return _job_ids(
        connection,
        "account_id = %s AND status = %s AND pause_reason = %s ORDER BY paused_at, job_id",
        *(account_id, JobStatus.PAUSED, reason),
    )


def unfinished_on(connection: Connection, account_id: UUID, dataset_id: UUID) -> list[UUID]:
    """Return the IDs of an account's unfinished jobs that use a dataset, oldest first."""
    return _job_ids(
        connection,
        "account_id = %s AND status <> ALL(%s) AND %s IN (dataset_id, validation_dataset_id) "
        "ORDER BY approved_at, job_id",
        *(account_id, FINAL, dataset_id),
    )


def unfinished_from(connection: Connection, account_id: UUID, job_id: UUID) -> list[UUID]:
    """Return the IDs of an account's unfinished jobs that continue the model of a job.

    They include the jobs that the read model lacks because the projector is behind. These may have
    ended since.
    """
    position = lowest_position(connection, [JOB_DETAIL])
    projected = _job_ids(
        connection,
        "account_id = %s AND status <> ALL(%s) AND continued_job_id = %s "
        "ORDER BY approved_at, job_id",
        *(account_id, FINAL, job_id),
    )
    approved = connection.execute(
        "SELECT originator_id FROM ecolink_events WHERE notification_id > %s "
        "AND topic = %s AND position(%s::bytea IN state) > 0 ORDER BY notification_id",
        [position, events.JobApproved.TOPIC, f'"job_id":"{job_id}"'.encode()],
    ).fetchall()
    return list(dict.fromkeys([*projected, *(row["originator_id"] for row in approved)]))


ACTIVE = f"""
WITH new AS (
    SELECT originator_id AS id, topic, convert_from(state, 'UTF8')::json AS state
    FROM ecolink_events WHERE topic IN (%(approved)s, %(resumed)s) AND notification_id > greatest(
        %(position)s, (SELECT max(notification_id) FROM ecolink_events) - %(searched)s)
)
SELECT gpu_count, count(*) AS jobs FROM (
    SELECT job_id, region, gpu_type, gpu_count FROM job_detail WHERE {IS_RUNNING}
    UNION SELECT id, region, gpu_type, (state ->> 'gpu_count')::integer
    FROM new JOIN job_detail ON job_id = id WHERE topic = %(resumed)s
    UNION SELECT id, plan ->> 'region', plan ->> 'gpu_type', (plan ->> 'gpu_count')::integer
    FROM (SELECT id, state -> 'plan' AS plan FROM new WHERE topic = %(approved)s) AS approved
) AS job WHERE region = %(region)s AND gpu_type = %(gpu_type)s
    AND job_id IS DISTINCT FROM %(but)s::uuid
GROUP BY gpu_count
"""


def active_jobs(
    connection: Connection, region: str, gpu_type: str, but: UUID | None
) -> dict[int, int]:
    """Return the numbers of running and queued jobs of a pool by GPU count, except one job.

    They include the jobs that the read model lacks because the projector is behind.
    """
    position = lowest_position(connection, [JOB_DETAIL])
    values = {
        "position": position,
        "searched": SEARCHED_IDS,
        "approved": events.JobApproved.TOPIC,
        "resumed": events.JobResumed.TOPIC,
        **{"region": region, "gpu_type": gpu_type, "but": but},
    }
    rows = connection.execute(ACTIVE, values).fetchall()  # type: ignore[arg-type]
    return {row["gpu_count"]: row["jobs"] for row in rows}


def job_named(connection: Connection, account_id: UUID, model: str) -> UUID | None:
    """Return the job whose model has or would have this name, or None.

    The name ends with twelve digits of the job's ID. Compare it with the job's `model_name`.
    """
    digits = model.rpartition(":")[2]
    if len(digits) != 12 or not set(digits) <= set("0123456789abcdef"):
        return None
    first, last = UUID(digits + "0" * 20), UUID(digits + "f" * 20)
    condition = "account_id = %s AND job_id BETWEEN %s AND %s ORDER BY approved_at, job_id LIMIT 1"
    return next(iter(_job_ids(connection, condition, account_id, first, last)), None)


def unfinished_on_base(connection: Connection, base_model: str) -> list[UUID]:
    """Return the IDs of all accounts' unfinished jobs on a base model, oldest first."""
    condition = "status <> ALL(%s) AND base_model = %s ORDER BY approved_at, job_id"
    return _job_ids(connection, condition, FINAL, base_model)


def running_jobs(connection: Connection, limit: int) -> list[Row]:
    """Return up to `limit` unfinished jobs of all accounts that are not paused, oldest first.

    Besides the columns of the job, a row has the last measured step (`measured_step`), its time
    (`reported_at`), both None before the first one, and the number of all such jobs (`jobs`).
    """
    return connection.execute(
        "SELECT oldest.*, measured.step AS measured_step, measured.measured_at AS reported_at, "  # type: ignore[arg-type]
        f"(SELECT count(*) FROM job_detail WHERE {IS_RUNNING}) AS jobs "
        f"FROM (SELECT * FROM job_detail WHERE {IS_RUNNING} ORDER BY approved_at, job_id LIMIT %s) "
        "AS oldest LEFT JOIN LATERAL (SELECT step, measured_at "
        "FROM step_measurements AS each WHERE each.job_id = oldest.job_id "
        "ORDER BY segment DESC, step DESC LIMIT 1) AS measured ON true "
        "ORDER BY approved_at, oldest.job_id",
        [limit],
    ).fetchall()


STATES_COUNTED: LiteralString = (
    "count(*) FILTER (WHERE status <> %(paused)s AND waiting_since IS NULL) AS running, "
    "count(*) FILTER (WHERE status <> %(paused)s AND waiting_since IS NOT NULL) AS queued, "
    "count(*) FILTER (WHERE status = %(paused)s) AS paused "
    "FROM job_detail WHERE status <> ALL(%(final)s)"
)
"""Part of a query that counts unfinished jobs."""


def unfinished_by_choice(connection: Connection) -> list[Row]:
    """Return the numbers of unfinished jobs of all accounts by region, GPU type and base model.

    A row has these three and the numbers of running, queued and paused jobs.
    """
    return connection.execute(
        f"SELECT region, gpu_type, base_model, {STATES_COUNTED} "
        "GROUP BY region, gpu_type, base_model",
        {"paused": JobStatus.PAUSED, "final": FINAL},
    ).fetchall()


@dataclass(frozen=True)
class Choice:
    """A region, GPU type or base model of jobs. None matches all."""

    region: str | None = None
    gpu_type: str | None = None
    base_model: str | None = None


def unfinished_by_account(connection: Connection, choice: Choice) -> list[Row]:
    """Return the numbers of unfinished jobs with a choice, by account.

    A row has the account_id and the numbers of running, queued and paused jobs. Accounts with the
    most jobs come first.
    """
    return connection.execute(
        f"SELECT account_id, {STATES_COUNTED} "
        "AND (%(region)s::text IS NULL OR region = %(region)s) "
        "AND (%(gpu_type)s::text IS NULL OR gpu_type = %(gpu_type)s) "
        "AND (%(base_model)s::text IS NULL OR base_model = %(base_model)s) "
        "GROUP BY account_id ORDER BY count(*) DESC, account_id",
        {"paused": JobStatus.PAUSED, "final": FINAL, **vars(choice)},
    ).fetchall()


def ended_segments(
    connection: Connection, segments: Collection[tuple[UUID, int]]
) -> set[tuple[UUID, int]]:
    """Return those of the given segments, by job ID and number, that have certainly ended.

    A read model that lags reports fewer of them.
    """
    jobs, numbers = [job_id for job_id, _ in segments], [number for _, number in segments]
    rows = connection.execute(
        "SELECT job_id, asked.segment FROM unnest(%s::uuid[], %s::integer[]) "
        "AS asked (job_id, segment) JOIN job_detail AS job USING (job_id) "
        "WHERE job.segment > asked.segment OR job.segment = asked.segment AND phase = ANY(%s)",
        [jobs, numbers, list(BETWEEN_SEGMENTS)],
    ).fetchall()
    return {(row["job_id"], row["segment"]) for row in rows}


def due_relaunches(connection: Connection, now: datetime) -> list[UUID]:
    """Return the IDs of the jobs whose postponed relaunch is due, earliest first."""
    return _job_ids(connection, "relaunch_at <= %s ORDER BY relaunch_at, job_id", now)


def suspended_jobs(connection: Connection) -> list[UUID]:
    """Return the jobs of suspended accounts that are neither ended nor paused, oldest first."""
    condition = (
        "status = ANY(%s) AND account_id IN (SELECT account_id FROM accounts "
        "WHERE suspension IS NOT NULL) ORDER BY approved_at, job_id"
    )
    return _job_ids(connection, condition, RUNNING)


def logged_jobs_over_since(connection: Connection, moment: datetime, limit: int) -> list[UUID]:
    """Return the IDs of up to `limit` jobs that ended before `moment` and have log lines.

    The oldest jobs come first.
    """
    return _job_ids(
        connection,
        "status = ANY(%s) AND changed_at < %s "
        "AND EXISTS (SELECT FROM log_lines WHERE log_lines.job_id = job_detail.job_id) "
        "ORDER BY changed_at, job_id LIMIT %s",
        *(FINAL, moment, limit),
    )


def expired_adapters(connection: Connection, now: datetime) -> list[UUID]:
    """Return the IDs of cancelled jobs whose retention time has ended, oldest first.

    The result has at most `MAX_EXPIRED` jobs. It omits promoted jobs, jobs that have a deployment
    of a checkpoint, even a failed one, and jobs that an unfinished job continues.
    """
    return _job_ids(
        connection,
        "expires_at <= %s AND NOT expired AND NOT promoted "
        "AND NOT EXISTS (SELECT 1 FROM deployments WHERE deployments.job_id = job_detail.job_id "
        "AND deployments.status <> %s) "
        "AND NOT EXISTS (SELECT 1 FROM job_detail AS child WHERE child.status <> ALL(%s) "
        "AND child.account_id = job_detail.account_id "
        "AND child.continued_job_id = job_detail.job_id) ORDER BY expires_at, job_id LIMIT %s",
        *(now, DeploymentStatus.UNDEPLOYED, FINAL, MAX_EXPIRED),
    )


@dataclass(frozen=True)
class PoolOverruns:
    """What price guarantees covered of the newest ended jobs of a pool, in micro-dollars."""

    region: str
    gpu_type: str
    jobs: int
    covered_micros: int
    price_micros: int  # charges less credits, and what the guarantees covered

    @property
    def share(self) -> float:
        """Covered share of the price, from 0 to 1."""
        return self.covered_micros / self.price_micros if self.price_micros else 0.0


def overruns_by_pool(connection: Connection, jobs: int) -> list[PoolOverruns]:
    """Return the overruns of each pool in its newest `jobs` ended jobs that used GPU time."""
    rows = connection.execute(
        "SELECT region, gpu_type, count(*) AS jobs, sum(covered_micros)::bigint AS covered_micros, "
        "sum(covered_micros + charged_micros - credited_micros)::bigint AS price_micros FROM ("
        "SELECT region, gpu_type, covered_micros, charged_micros, credited_micros, row_number() "
        "OVER (PARTITION BY region, gpu_type ORDER BY approved_at DESC, job_id) AS place "
        "FROM job_detail WHERE status = ANY(%s) AND billed_seconds > 0) AS ended "
        "WHERE place <= %s GROUP BY region, gpu_type ORDER BY region, gpu_type",
        [[each for each in JobStatus if each.is_final], jobs],
    ).fetchall()
    return [PoolOverruns(**row) for row in rows]
