"""Measurements: tables that are no projection and no part of a refold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from infrastructure.reports import EvaluationMeasured, LogLine, StepMeasured
from infrastructure.store import Connection

DDL = """
CREATE TABLE IF NOT EXISTS step_measurements (
    job_id uuid NOT NULL,
    step integer NOT NULL,
    segment integer NOT NULL,
    train_loss double precision NOT NULL,
    learning_rate double precision NOT NULL,
    tokens bigint NOT NULL,
    tokens_per_second double precision NOT NULL,
    elapsed_seconds double precision NOT NULL,
    measured_at timestamptz NOT NULL,
    PRIMARY KEY (job_id, segment, step)
);
ALTER TABLE step_measurements ADD COLUMN IF NOT EXISTS peak_memory_bytes bigint;
CREATE INDEX IF NOT EXISTS step_measurements_moment
ON step_measurements (job_id, measured_at, step, segment);
CREATE TABLE IF NOT EXISTS evaluation_measurements (
    job_id uuid NOT NULL,
    step integer NOT NULL,
    segment integer NOT NULL,
    eval_loss double precision NOT NULL,
    accuracy double precision NOT NULL,
    examples integer NOT NULL,
    label_tokens bigint NOT NULL,
    seconds double precision NOT NULL,
    elapsed_seconds double precision NOT NULL,
    measured_at timestamptz NOT NULL,
    PRIMARY KEY (job_id, segment, step)
);
CREATE TABLE IF NOT EXISTS log_lines (
    job_id uuid NOT NULL,
    segment integer NOT NULL,
    n integer NOT NULL,
    level text NOT NULL,
    text text NOT NULL,
    logged_at timestamptz NOT NULL,
    PRIMARY KEY (job_id, segment, n)
);
CREATE TABLE IF NOT EXISTS segment_evidence (
    job_id uuid NOT NULL,
    segment integer NOT NULL,
    elapsed_seconds double precision NOT NULL,
    PRIMARY KEY (job_id, segment)
);
CREATE TABLE IF NOT EXISTS dataset_progress (
    dataset_id uuid PRIMARY KEY,
    lines bigint NOT NULL,
    bytes bigint NOT NULL,
    total_bytes bigint NOT NULL
)
"""


def add_step(connection: Connection, step: StepMeasured) -> None:
    """Keep one optimizer step's measurement; a redelivered one changes nothing."""
    connection.execute(
        "INSERT INTO step_measurements VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) "
        "ON CONFLICT DO NOTHING",
        [
            step.job_id,
            step.step,
            step.segment,
            step.train_loss,
            step.learning_rate,
            step.tokens,
            step.tokens_per_second,
            step.elapsed_seconds,
            step.measured_at,
            step.peak_memory_bytes,  # the column that was added last
        ],
    )


def add_evaluation(connection: Connection, evaluation: EvaluationMeasured) -> None:
    """Keep what an evaluation measured; a redelivered one changes nothing."""
    connection.execute(
        "INSERT INTO evaluation_measurements VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) "
        "ON CONFLICT DO NOTHING",
        [
            evaluation.job_id,
            evaluation.step,
            evaluation.segment,
            evaluation.eval_loss,
            evaluation.accuracy,
            evaluation.examples,
            evaluation.label_tokens,
            evaluation.seconds,
            evaluation.elapsed_seconds,
            evaluation.measured_at,
        ],
    )


def evaluations_of(
    connection: Connection, job_id: UUID, after: int = -1, limit: int | None = None
) -> list[dict[str, Any]]:
    """A job's evaluations after a step, in order; of one that was made twice, the last."""
    return connection.execute(
        "SELECT DISTINCT ON (step) * FROM evaluation_measurements "
        "WHERE job_id = %s AND step > %s ORDER BY step, segment DESC LIMIT %s",
        [job_id, after, limit],
    ).fetchall()


def last_evaluation_of(connection: Connection, job_id: UUID) -> dict[str, Any] | None:
    """The newest evaluation of a job's adapter, in the last segment that made one.

    That of step 0 is the base's, made at the end to compare with.
    """
    return connection.execute(
        "SELECT * FROM evaluation_measurements WHERE job_id = %s AND step > 0 "
        "ORDER BY segment DESC, step DESC LIMIT 1",
        [job_id],
    ).fetchone()


def steps_of(
    connection: Connection, job_id: UUID, after: int = 0, limit: int | None = None
) -> list[dict[str, Any]]:
    """A job's steps after one, in order; of a step that was taken twice, the last."""
    return connection.execute(
        "SELECT DISTINCT ON (step) * FROM step_measurements "
        "WHERE job_id = %s AND step > %s ORDER BY step, segment DESC LIMIT %s",
        [job_id, after, limit],
    ).fetchall()


def last_step_of(connection: Connection, job_id: UUID) -> dict[str, Any] | None:
    """The newest step of a job, in the last segment that took one."""
    return connection.execute(
        "SELECT * FROM step_measurements WHERE job_id = %s "
        "ORDER BY segment DESC, step DESC LIMIT 1",
        [job_id],
    ).fetchone()


def last_steps(connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, int]:
    """The newest steps of jobs, each in the last segment that took one."""
    rows = connection.execute(
        "SELECT job_id, step FROM unnest(%s::uuid[]) AS wanted (job_id) CROSS JOIN LATERAL ("
        "SELECT step FROM step_measurements AS each WHERE each.job_id = wanted.job_id "
        "ORDER BY segment DESC, step DESC LIMIT 1) AS newest",
        [list(job_ids)],
    ).fetchall()
    return {row["job_id"]: row["step"] for row in rows}


class StepsTaken(NamedTuple):
    """Steps of a job that were measured, and their tokens without padding."""

    steps: int
    tokens: int


def steps_taken(connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, StepsTaken]:
    """What was measured of jobs; a step that was taken twice counts once."""
    rows = connection.execute(
        "SELECT job_id, count(*) AS steps, sum(tokens)::bigint AS tokens FROM ("
        "SELECT DISTINCT ON (job_id, step) job_id, tokens FROM step_measurements "
        "WHERE job_id = ANY(%s) ORDER BY job_id, step, segment DESC) AS taken GROUP BY job_id",
        [list(job_ids)],
    ).fetchall()
    return {row["job_id"]: StepsTaken(row["steps"], row["tokens"]) for row in rows}


def add_log_line(connection: Connection, line: LogLine) -> None:
    """Keep one line of a trainer's log; a redelivered one changes nothing."""
    connection.execute(
        "INSERT INTO log_lines VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        [line.job_id, line.segment, line.n, line.level, line.text, line.logged_at],
    )


def log_lines_of(connection: Connection, job_id: UUID, limit: int = 200) -> list[dict[str, Any]]:
    """The last lines of a job's log, in order."""
    rows = connection.execute(
        "SELECT segment, n, level, text, logged_at FROM log_lines WHERE job_id = %s "
        "ORDER BY segment DESC, n DESC LIMIT %s",
        [job_id, limit],
    ).fetchall()
    return rows[::-1]


def add_evidence(
    connection: Connection, job_id: UUID, segment: int, elapsed_seconds: float
) -> None:
    """Keep the longest segment time that was shown; it only grows."""
    connection.execute(
        "INSERT INTO segment_evidence AS known VALUES (%s, %s, %s) "
        "ON CONFLICT (job_id, segment) DO UPDATE "
        "SET elapsed_seconds = greatest(known.elapsed_seconds, excluded.elapsed_seconds)",
        [job_id, segment, elapsed_seconds],
    )


def set_progress(
    connection: Connection, dataset_id: UUID, lines: int, done_bytes: int, total_bytes: int
) -> None:
    """Say how far the validation of a dataset has got."""
    connection.execute(
        "INSERT INTO dataset_progress VALUES (%s, %s, %s, %s) ON CONFLICT (dataset_id) "
        "DO UPDATE SET lines = excluded.lines, bytes = excluded.bytes",
        [dataset_id, lines, done_bytes, total_bytes],
    )


def progress_of(connection: Connection, dataset_id: UUID) -> dict[str, Any] | None:
    """How far the validation of a dataset has got."""
    return connection.execute(
        "SELECT lines, bytes, total_bytes FROM dataset_progress WHERE dataset_id = %s",
        [dataset_id],
    ).fetchone()
