"""Tables of measurements, log lines and progress, which are not projections of the event log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from psycopg.rows import tuple_row

from infrastructure.postgres.store import Connection
from infrastructure.training.reports import EvaluationMeasured, LogLine, StepMeasured

DDL = """
CREATE TABLE IF NOT EXISTS step_measurements (
    job_id uuid NOT NULL,
    step integer NOT NULL,
    segment integer NOT NULL,
    train_loss double precision NOT NULL,
    smoothed_loss double precision NOT NULL,
    learning_rate double precision NOT NULL,
    tokens bigint NOT NULL,
    tokens_per_second double precision NOT NULL,
    elapsed_seconds double precision NOT NULL,
    measured_at timestamptz NOT NULL,
    peak_memory_bytes bigint,
    PRIMARY KEY (job_id, segment, step)
);
ALTER TABLE step_measurements ADD COLUMN IF NOT EXISTS gpu_utilization double precision;
ALTER TABLE step_measurements ADD COLUMN IF NOT EXISTS gpu_memory_bytes bigint;
ALTER TABLE step_measurements ADD COLUMN IF NOT EXISTS accuracy double precision;
ALTER TABLE step_measurements ADD COLUMN IF NOT EXISTS chosen_reward double precision;
ALTER TABLE step_measurements ADD COLUMN IF NOT EXISTS rejected_reward double precision;
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
ALTER TABLE evaluation_measurements ADD COLUMN IF NOT EXISTS chosen_reward double precision;
ALTER TABLE evaluation_measurements ADD COLUMN IF NOT EXISTS rejected_reward double precision;
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
    """Store the metrics of one optimizer step. Idempotent."""
    _add(connection, "step_measurements", step.model_dump(exclude={"account_id", "total_steps"}))


def add_evaluation(connection: Connection, evaluation: EvaluationMeasured) -> None:
    """Store the metrics of an evaluation. Idempotent."""
    _add(connection, "evaluation_measurements", evaluation.model_dump(exclude={"account_id"}))


def add_log_line(connection: Connection, line: LogLine) -> None:
    """Store one line of a trainer's log. Idempotent."""
    _add(connection, "log_lines", line.model_dump(exclude={"account_id"}))


def _add(connection: Connection, table: LiteralString, columns: Mapping[str, object]) -> None:
    values = ", ".join(f"%({name})s" for name in columns)
    connection.execute(
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values}) ON CONFLICT DO NOTHING",  # type: ignore[arg-type]
        columns,
    )


def evaluations_of(
    connection: Connection, job_id: UUID, after: int = -1, limit: int | None = None
) -> list[dict[str, Any]]:
    """Return a job's evaluations after a step, in order, the last one of each step."""
    return _rows_of(connection, "evaluation_measurements", job_id, after, limit)


def last_evaluations_of(
    connection: Connection, job_ids: Sequence[UUID]
) -> dict[UUID, dict[str, Any]]:
    """Return the newest evaluation of each job's adapter (not of the base), by job ID."""
    return _newest(connection, "evaluation_measurements", "step > 0", job_ids)


def steps_of(
    connection: Connection, job_id: UUID, after: int = 0, limit: int | None = None
) -> list[dict[str, Any]]:
    """Return a job's steps after a given one, in order, the last repetition of each."""
    return _rows_of(connection, "step_measurements", job_id, after, limit)


def _rows_of(
    connection: Connection, table: LiteralString, job_id: UUID, after: int, limit: int | None
) -> list[dict[str, Any]]:
    return connection.execute(
        f"SELECT DISTINCT ON (step) * FROM {table} "
        "WHERE job_id = %s AND step > %s ORDER BY step, segment DESC LIMIT %s",
        [job_id, after, limit],
    ).fetchall()


class MeasuredStep(NamedTuple):
    """The loss of one optimizer step, its segment, and with DPO its rewards and accuracy."""

    step: int
    segment: int
    loss: float
    smoothed: float
    chosen: float | None = None
    rejected: float | None = None
    accuracy: float | None = None


def losses_of(connection: Connection, job_id: UUID) -> list[MeasuredStep]:
    """Return the losses of a job's steps in order. Of a repeated step, return only the last.

    For speed, rows are plain tuples in binary format: a long job has a million steps.
    """
    standing: list[MeasuredStep] = []
    with connection.cursor(row_factory=tuple_row, binary=True) as cursor:
        cursor.execute(
            "SELECT step, segment, train_loss, smoothed_loss, chosen_reward, rejected_reward, "
            "accuracy FROM step_measurements "
            "WHERE job_id = %s ORDER BY segment, step",
            [job_id],
        )
        for row in cursor:
            step = MeasuredStep(*row)
            while standing and standing[-1].step >= step.step:
                standing.pop()  # lost in a crash and repeated
            standing.append(step)
    return standing


def last_steps_of(connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
    """Return the newest step of each job, from its last segment that has one, by job ID."""
    return _newest(connection, "step_measurements", "true", job_ids)


def _newest(
    connection: Connection, table: LiteralString, which: LiteralString, job_ids: Sequence[UUID]
) -> dict[UUID, dict[str, Any]]:
    rows = connection.execute(
        f"SELECT newest.* FROM unnest(%s::uuid[]) AS wanted (id) CROSS JOIN LATERAL ("
        f"SELECT * FROM {table} WHERE job_id = wanted.id AND {which} "
        "ORDER BY segment DESC, step DESC LIMIT 1) AS newest",
        [list(job_ids)],
    ).fetchall()
    return {row["job_id"]: row for row in rows}


class StepsTaken(NamedTuple):
    """The number of measured steps of a job, and their tokens without padding."""

    steps: int
    tokens: int


def steps_taken(connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, StepsTaken]:
    """Return the measured steps of the given jobs, by job ID. A repeated step counts once."""
    rows = connection.execute(
        "SELECT job_id, count(*) AS steps, sum(tokens)::bigint AS tokens FROM ("
        "SELECT DISTINCT ON (job_id, step) job_id, tokens FROM step_measurements "
        "WHERE job_id = ANY(%s) ORDER BY job_id, step, segment DESC) AS taken GROUP BY job_id",
        [list(job_ids)],
    ).fetchall()
    return {row["job_id"]: StepsTaken(row["steps"], row["tokens"]) for row in rows}


def delete_log_lines(connection: Connection, job_ids: Sequence[UUID]) -> None:
    """Delete all log lines of the given jobs."""
    connection.execute("DELETE FROM log_lines WHERE job_id = ANY(%s)", [list(job_ids)])


def log_lines_of(connection: Connection, job_id: UUID, limit: int = 200) -> list[dict[str, Any]]:
    """Return the last `limit` lines of a job's log, in order."""
    rows = connection.execute(
        "SELECT segment, n, level, text, logged_at FROM log_lines WHERE job_id = %s "
        "ORDER BY segment DESC, n DESC LIMIT %s",
        [job_id, limit],
    ).fetchall()
    return rows[::-1]


Place = tuple[int, int]
"""Position of a measurement: its segment, and its step or line number."""

NEWEST: dict[str, LiteralString] = {
    "step_measurements": "step, train_loss AS loss, smoothed_loss AS smoothed, "
    "chosen_reward AS chosen, rejected_reward AS rejected, accuracy",
    "evaluation_measurements": "step, eval_loss AS loss",
    "log_lines": "n, level, text",
}


def newest_of(
    connection: Connection, table: str, known: Mapping[UUID, Place], limit: int
) -> dict[UUID, list[dict[str, Any]]]:
    """Return the newest rows of each job after its known position, in order, with one query.

    If a job has `limit` rows, the result may lack earlier ones. It always includes the evaluation
    of the base model, which has the first position of its segment but is made last.
    """
    columns = NEWEST[table]
    number = columns.partition(",")[0]
    late: LiteralString = ""
    if table == "evaluation_measurements":
        late = " OR (each.step = 0 AND each.segment = known.of_segment)"
    rows = connection.execute(
        f"SELECT newest.* FROM unnest(%s::uuid[], %s::int[], %s::int[]) "  # type: ignore[arg-type]
        f"AS known (id, of_segment, n) CROSS JOIN LATERAL (SELECT job_id, segment, {columns} "
        f"FROM {table} AS each WHERE each.job_id = known.id "
        f"AND ((each.segment, each.{number}) > (known.of_segment, known.n){late}) "
        f"ORDER BY each.segment DESC, each.{number} DESC LIMIT %s) AS newest "
        f"ORDER BY segment, {number}",
        [list(known), [each for each, _ in known.values()], [n for _, n in known.values()], limit],
    ).fetchall()
    found: dict[UUID, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["job_id"], []).append(row)
    return found


def add_evidence(
    connection: Connection, job_id: UUID, segment: int, elapsed_seconds: float
) -> None:
    """Store the elapsed time that a segment reports. Keep the longest."""
    add_evidence_of_many(connection, {(job_id, segment): elapsed_seconds})


def add_evidence_of_many(connection: Connection, longest: Mapping[tuple[UUID, int], float]) -> None:
    """Store the elapsed seconds of segments, by job and segment, in one statement.

    Keep the longest of each. A segment whose stored time is as long is not written.
    """
    rows = sorted((*key, seconds) for key, seconds in longest.items())
    columns = [list(each) for each in zip(*rows, strict=True)]
    if rows:
        connection.execute(
            "INSERT INTO segment_evidence AS known "
            "SELECT * FROM unnest(%s::uuid[], %s::integer[], %s::double precision[]) "
            "ON CONFLICT (job_id, segment) DO UPDATE "
            "SET elapsed_seconds = excluded.elapsed_seconds "
            "WHERE known.elapsed_seconds < excluded.elapsed_seconds",
            columns,
        )


def set_progress(
    connection: Connection, dataset_id: UUID, lines: int, done_bytes: int, total_bytes: int
) -> None:
    """Store the progress of the validation of a dataset."""
    connection.execute(
        "INSERT INTO dataset_progress VALUES (%s, %s, %s, %s) ON CONFLICT (dataset_id) "
        "DO UPDATE SET lines = excluded.lines, bytes = excluded.bytes",
        [dataset_id, lines, done_bytes, total_bytes],
    )


def progress_of(connection: Connection, dataset_id: UUID) -> dict[str, Any] | None:
    """Return the progress of the validation of a dataset, or None."""
    return connection.execute(
        "SELECT lines, bytes, total_bytes FROM dataset_progress WHERE dataset_id = %s", [dataset_id]
    ).fetchone()


Evaluated = tuple[int, float, int]
"""Position of an evaluation in time: its segment, elapsed seconds and step."""


def steps_after(
    connection: Connection, job_id: UUID, after: Place, limit: int
) -> list[dict[str, Any]]:
    """Return the rows of steps after a position, in order. Steps of a crash come again later."""
    return connection.execute(
        "SELECT * FROM step_measurements WHERE job_id = %s AND (segment, step) > (%s, %s) "
        "ORDER BY segment, step LIMIT %s",
        [job_id, *after, limit],
    ).fetchall()


def earlier_steps(
    connection: Connection, job_id: UUID, segment: int, first: int, last: int
) -> dict[int, dict[str, Any]]:
    """Return the measurements of steps by the newest segment before a given one, by step."""
    rows = connection.execute(
        "SELECT DISTINCT ON (step) * FROM step_measurements WHERE job_id = %s "
        "AND segment = ANY(%s) AND step BETWEEN %s AND %s ORDER BY step, segment DESC",
        [job_id, list(range(segment)), first, last],
    ).fetchall()
    return {row["step"]: row for row in rows}


def evaluations_after(
    connection: Connection, job_id: UUID, after: Evaluated, limit: int
) -> list[dict[str, Any]]:
    """Return the rows of evaluations after a position, in the order in which they were made."""
    return connection.execute(
        "SELECT * FROM evaluation_measurements WHERE job_id = %s "
        "AND (segment, elapsed_seconds, step) > (%s, %s, %s) "
        "ORDER BY segment, elapsed_seconds, step LIMIT %s",
        [job_id, *after, limit],
    ).fetchall()


def measured_rows(connection: Connection, job_id: UUID) -> int:
    """Return the number of rows of steps and evaluations of a job, repeated steps included."""
    row = connection.execute(
        "SELECT (SELECT count(*) FROM step_measurements WHERE job_id = %(job)s) "
        "+ (SELECT count(*) FROM evaluation_measurements WHERE job_id = %(job)s) AS rows",
        {"job": job_id},
    ).fetchone()
    assert row is not None
    return row["rows"]
