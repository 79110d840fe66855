"""What /v1 says of a file: an upload, or the metrics of a job that is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from domain.datasets.dataset import DatasetStatus
from gateway.datasets.api import ValidationReport, obstacle_of
from gateway.http.openai_vocabulary import FILE_STATUSES, FINE_TUNE, RESULTS, file_name, result_name
from gateway.schemas import Answer
from infrastructure.artifacts import Artifacts
from infrastructure.store import Connection

UNNAMED = "dataset.jsonl"
METRICS_NAME = "step_metrics.csv"
LINE_END = "\r\n"
HEAD = "step,train_loss,valid_loss,valid_mean_token_accuracy,learning_rate,tokens" + LINE_END
TOLD_ERRORS = 3


class FileObject(Answer):
    """OpenAI's `file`."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: str
    status: str
    status_details: str | None = None


class FileDeleted(Answer):
    """A file is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


def file_object(row: Mapping[str, Any], name: str | None, artifacts: Artifacts) -> FileObject:
    """A dataset's row as a file; of a rejected one with the first errors."""
    rejected = row["status"] == DatasetStatus.REJECTED
    return FileObject(
        id=file_name(row["dataset_id"]),
        bytes=row["total_bytes"],
        created_at=int(row["uploaded_at"].timestamp()),
        filename=name or UNNAMED,
        purpose=FINE_TUNE,
        status=FILE_STATUSES[row["status"]],
        status_details=why_rejected(artifacts, row["report_ref"]) if rejected else obstacle_of(row),
    )


def why_rejected(artifacts: Artifacts, report_ref: str) -> str | None:
    """The first errors of a rejected file, with their lines; None if it was deleted just now."""
    try:
        report = ValidationReport.model_validate_json(artifacts.get(report_ref))
    except FileNotFoundError:
        return None
    told = [
        f"{'file' if error.line is None else f'line {error.line}'}: {error.message}"
        for error in report.errors[:TOLD_ERRORS]
    ]
    further = report.error_count - len(told)
    return "; ".join(told + ([f"and {further} more"] if further else []))


def result_object(job_id: UUID, ended_at: datetime, size: int) -> FileObject:
    """The metrics of a job as a file."""
    return FileObject(
        id=result_name(job_id),
        bytes=size,
        created_at=int(ended_at.timestamp()),
        filename=METRICS_NAME,
        purpose=RESULTS,
        status="processed",
    )


LINES = """
WITH steps AS (
    SELECT DISTINCT ON (job_id, step) * FROM step_measurements WHERE job_id = ANY(%(jobs)s)
    ORDER BY job_id, step, segment DESC
), scored AS (
    SELECT DISTINCT ON (job_id, step) * FROM evaluation_measurements
    WHERE job_id = ANY(%(jobs)s) AND step > 0 ORDER BY job_id, step, segment DESC
), lines AS (
    SELECT job_id, step, concat(step, ',', train_loss, ',', eval_loss, ',', accuracy, ',',
        learning_rate, ',', tokens, %(end)s::text) AS line
    FROM steps FULL JOIN scored USING (job_id, step)
)
"""
"""Made where the numbers are, so that the size of a file is known without making it."""


def metrics_csv(connection: Connection, job_id: UUID) -> bytes:
    """A line for each step that was measured or evaluated; losses are nats per label token.

    That of the base, at step 0, is no part of it.
    What was measured lives shorter than the job: then there are no lines.
    """
    rows = connection.execute(
        f"{LINES} SELECT line FROM lines ORDER BY step",  # type: ignore[arg-type]
        {"jobs": [job_id], "end": LINE_END},
    ).fetchall()
    return "".join([HEAD, *(row["line"] for row in rows)]).encode()


def metrics_sizes(connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, int]:
    """Bytes of the metrics of jobs, as CSV."""
    rows = connection.execute(
        f"{LINES} SELECT job_id, sum(length(line))::bigint AS size "  # type: ignore[arg-type]
        "FROM lines GROUP BY job_id",
        {"jobs": list(job_ids), "end": LINE_END},
    ).fetchall()
    known = {row["job_id"]: row["size"] for row in rows}
    return {job_id: len(HEAD) + known.get(job_id, 0) for job_id in job_ids}
