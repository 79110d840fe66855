"""Metrics of a finished job as a CSV file, which /v1 lists among the files."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from domain.core.errors import NotFound
from gateway.backend import Backend
from gateway.http.access import Caller
from gateway.http.openai_vocabulary import job_of_result
from gateway.jobs.results import has_results, trained_tokens
from gateway.jobs.service import own_job
from infrastructure.postgres.store import Connection
from projections.job_timeline import ended_at
from projections.projection import Row

METRICS_NAME = "step_metrics.csv"
LINE_END = "\r\n"
HEAD = "step,train_loss,valid_loss,valid_mean_token_accuracy,learning_rate,tokens" + LINE_END
DPO_HEAD = (
    "step,train_loss,train_reward_accuracy,train_chosen_reward,train_rejected_reward,valid_loss,"
    "valid_reward_accuracy,valid_chosen_reward,valid_rejected_reward,learning_rate,tokens"
) + LINE_END

SQL = """
WITH steps AS (
    SELECT DISTINCT ON (job_id, step) * FROM step_measurements WHERE job_id = ANY(%(jobs)s)
    ORDER BY job_id, step, segment DESC
), scored AS (
    SELECT DISTINCT ON (job_id, step) * FROM evaluation_measurements
    WHERE job_id = ANY(%(jobs)s) AND step > 0 ORDER BY job_id, step, segment DESC
), measured AS (
    SELECT job_id, step, train_loss, steps.accuracy, steps.chosen_reward, steps.rejected_reward,
        eval_loss, scored.accuracy AS valid_accuracy, scored.chosen_reward AS valid_chosen_reward,
        scored.rejected_reward AS valid_rejected_reward, learning_rate, tokens,
        bool_or(steps.chosen_reward IS NOT NULL OR scored.chosen_reward IS NOT NULL)
            OVER (PARTITION BY job_id) AS dpo
    FROM steps FULL JOIN scored USING (job_id, step)
), lines AS (
    SELECT job_id, step, dpo,
        CASE WHEN dpo THEN
            concat(step, ',', train_loss, ',', accuracy, ',', chosen_reward, ',',
            rejected_reward, ',', eval_loss, ',', valid_accuracy, ',', valid_chosen_reward, ',',
            valid_rejected_reward, ',', learning_rate, ',', tokens, %(end)s::text)
        ELSE
            concat(step, ',', train_loss, ',', eval_loss, ',', valid_accuracy, ',',
            learning_rate, ',', tokens, %(end)s::text)
        END AS line
    FROM measured
)
"""
"""Query of the CSV lines. The database formats them, so that it can also sum their lengths."""


def metrics_sizes(connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, int]:
    """Return the sizes in bytes of the metrics files of the given jobs, by job ID."""
    rows = connection.execute(
        f"{SQL} SELECT job_id, sum(length(line))::bigint AS size, bool_or(dpo) AS dpo "  # type: ignore[arg-type]
        "FROM lines GROUP BY job_id",
        {"jobs": list(job_ids), "end": LINE_END},
    ).fetchall()
    known = {row["job_id"]: len(_head(row["dpo"])) + row["size"] for row in rows}
    return {job_id: known.get(job_id, len(HEAD)) for job_id in job_ids}


def _head(dpo: bool | None) -> str:
    return DPO_HEAD if dpo else HEAD


def job_with_metrics(backend: Backend, caller: Caller, file_id: str) -> Row:
    """Return the row of a metrics file's job. Raise NotFound, also for an unfinished job."""
    row = own_job(backend, caller, job_of_result(file_id))
    if not has_results(row):
        raise NotFound(f"Unknown file {file_id}. See GET /v1/files.")
    return row


def job_end(backend: Backend, job: Row) -> datetime:
    """Return the time at which a job ended."""
    with backend.pool.connection() as connection:
        return ended_at(connection, [job])[job["job_id"]]


def metrics_end(backend: Backend, job: Row) -> datetime:
    """Return the time at which a job ended. First wait until its last metrics have arrived."""
    end = job_end(backend, job)
    trained_tokens(backend, [job], {job["job_id"]: end})
    return end


def metrics_csv(backend: Backend, job: Row) -> bytes:
    """Return a CSV line per step after 0, with losses in nats per trainable token or pair."""
    metrics_end(backend, job)
    with backend.pool.connection() as connection:
        rows = connection.execute(
            f"{SQL} SELECT line, dpo FROM lines ORDER BY step",  # type: ignore[arg-type]
            {"jobs": [job["job_id"]], "end": LINE_END},
        ).fetchall()
    head = _head(bool(rows) and rows[0]["dpo"])
    return "".join([head, *(row["line"] for row in rows)]).encode()
