"""The approved estimate and actual time of each job, and the calibration from them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from uuid import UUID

from domain.core.recorded import Recorded
from domain.estimating.estimate import Calibration, Precision
from domain.jobs import events
from domain.training.phases import Phase
from infrastructure.postgres.store import Connection, scalar
from projections.merged_rows import MergedRows
from projections.projection import Cursor, Projection, Row

DDL = """
CREATE TABLE IF NOT EXISTS estimates (
    job_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    approved_at timestamptz NOT NULL,
    base_model text NOT NULL,
    gpu_type text NOT NULL,
    gpu_count integer NOT NULL,
    precision text NOT NULL,
    tokens bigint NOT NULL,
    total_steps bigint NOT NULL,
    planned_steps bigint,
    trained_steps bigint,
    calibrated_from integer NOT NULL,
    model_seconds jsonb NOT NULL,
    low_seconds bigint NOT NULL,
    high_seconds bigint NOT NULL,
    low_micros bigint NOT NULL,
    high_micros bigint NOT NULL,
    slowdown double precision NOT NULL,
    scored_at timestamptz,
    segments integer,
    last_gpu_count integer,
    actual_seconds bigint,
    actual_micros bigint,
    phase_seconds jsonb
);
CREATE INDEX IF NOT EXISTS estimates_scored
    ON estimates (base_model, gpu_type, precision, gpu_count, scored_at);
CREATE INDEX IF NOT EXISTS estimates_approved ON estimates (approved_at, job_id)
"""

CALIBRATION_JOBS = 8
"""Number of jobs in a calibration.

It is large enough for a robust median, and small enough to follow changes of the machine.
"""

MIN_FACTOR, MAX_FACTOR = 0.05, 20.0
"""Bounds of a calibration factor.

A factor outside them indicates a wrong measurement, not a wrong constant.
"""

STEPS_TOLERANCE = 0.1
"""Largest difference between planned and estimated steps of a job that calibrates estimates.

It is relative to the estimated steps. A larger difference indicates a wrong count of the examples.
The estimates of examples after truncation and of held-out chats are only off by a few.
"""

MIN_SECONDS = 0.001
"""Minimum modeled seconds of a phase that calibrates estimates."""


def apply(cursor: Cursor, batch: Sequence[Recorded]) -> None:
    """Apply events to the table."""
    rows = MergedRows(cursor, "estimates", "job_id")
    for each in batch:
        match each.event:
            case events.JobApproved() as approved:
                rows.insert(approved.originator_id, **_estimate(approved))
            case events.TrainingStarted() as started:
                rows.update(started.originator_id, planned_steps=started.total_steps)
            case events.TrainingStoppedEarly() as stopped:
                rows.update(
                    stopped.originator_id,
                    # TrainingStarted has the steps up to the stop if it was recorded after it.
                    planned_steps=stopped.planned_steps,
                    trained_steps=stopped.step,
                )
            case events.EstimateScored() as scored:
                rows.update(
                    scored.originator_id,
                    scored_at=scored.timestamp,
                    segments=scored.segments,
                    last_gpu_count=scored.gpu_count,
                    actual_seconds=scored.actual_seconds,
                    actual_micros=scored.actual_micros,
                    phase_seconds={p.value: spent for p, spent in scored.phase_seconds.items()},
                )
            case _:
                pass
    rows.write()


def _estimate(event: events.JobApproved) -> Row:
    estimate, plan = event.estimate, event.plan
    return {
        "account_id": event.account_id,
        "approved_at": event.timestamp,
        "base_model": plan.base_model,
        "gpu_type": plan.gpu_type,
        "gpu_count": plan.gpu_count,
        "precision": plan.precision,
        "tokens": estimate.tokens,
        "total_steps": estimate.total_steps,
        "calibrated_from": estimate.calibrated_from,
        "model_seconds": {each.phase.value: each.model_seconds for each in estimate.phases},
        "low_seconds": estimate.low_seconds,
        "high_seconds": estimate.high_seconds,
        "low_micros": estimate.low_micros,
        "high_micros": estimate.high_micros,
        "slowdown": 1.0 if estimate.conditions is None else estimate.conditions.slowdown,
    }


ESTIMATES = Projection(
    "estimates",
    ("estimates",),
    DDL,
    (
        events.JobApproved,
        events.TrainingStarted,
        events.TrainingStoppedEarly,
        events.EstimateScored,
    ),
    apply,
)


def calibration(
    connection: Connection, base_model: str, gpu_type: str, precision: Precision, gpu_count: int
) -> Calibration:
    """Return the median ratio of actual to modeled seconds for each phase of similar recent jobs.

    Only jobs with a single segment count, because further segments repeat the start and lost work.
    The jobs must have run on the GPUs for which they were estimated, with about as many steps.
    """
    rows = connection.execute(
        "SELECT model_seconds, phase_seconds, slowdown, total_steps, trained_steps "
        "FROM estimates WHERE base_model = %s "
        "AND gpu_type = %s AND precision = %s AND gpu_count = %s AND segments = 1 "
        "AND last_gpu_count = gpu_count AND abs(planned_steps - total_steps) <= %s * total_steps "
        "ORDER BY scored_at DESC, job_id LIMIT %s",
        [base_model, gpu_type, precision, gpu_count, STEPS_TOLERANCE, CALIBRATION_JOBS],
    ).fetchall()
    return Calibration(
        factors={
            phase: min(MAX_FACTOR, max(MIN_FACTOR, median(ratios)))
            for phase in Phase
            if (ratios := _ratios(rows, phase))
        },
        jobs=len(rows),
        slowdown=median(row["slowdown"] for row in rows) if rows else 1.0,
    )


def _ratios(rows: list[Row], phase: Phase) -> list[float]:
    return [
        row["phase_seconds"][phase] / (_trained_share(row, phase) * row["model_seconds"][phase])
        for row in rows
        if row["phase_seconds"].get(phase) is not None
        and row["model_seconds"].get(phase, 0.0) >= MIN_SECONDS
    ]


def _trained_share(row: Row, phase: Phase) -> float:
    """Return the share of a phase that a job ran, which is below 1 if training stopped early."""
    early = phase is Phase.TRAINING and row["trained_steps"] is not None
    return row["trained_steps"] / row["total_steps"] if early else 1.0


def report_rows(connection: Connection) -> list[Row]:
    """Return the rows of all estimates in order of approval.

    Rows of unfinished jobs have no actual values.
    """
    return connection.execute("SELECT * FROM estimates ORDER BY approved_at, job_id").fetchall()


def newest_rows(connection: Connection, limit: int) -> list[Row]:
    """Return the rows of the newest `limit` estimates, newest first."""
    return connection.execute(
        "SELECT * FROM estimates ORDER BY approved_at DESC, job_id DESC LIMIT %s", [limit]
    ).fetchall()


def rows_after(connection: Connection, after: Row | None, limit: int) -> list[Row]:
    """Return up to `limit` rows of estimates after a row, in order of approval."""
    first = ("-infinity", UUID(int=0))
    return connection.execute(
        "SELECT * FROM estimates WHERE (approved_at, job_id) > (%s::timestamptz, %s) "
        "ORDER BY approved_at, job_id LIMIT %s",
        [*((after["approved_at"], after["job_id"]) if after else first), limit],
    ).fetchall()


def count_estimates(connection: Connection) -> int:
    """Return the number of estimates."""
    return scalar(connection, "SELECT count(*) FROM estimates")
