"""The files of an account: its uploads, and the metrics of its finished jobs."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from domain.jobs.lifecycle import JobStatus
from infrastructure.postgres.store import Connection
from projections.job_timeline import ENDINGS


class FileKey(NamedTuple):
    """Position of a file in the list. `id` is the ID of the job or dataset."""

    at: datetime
    is_result: bool
    id: UUID


FILES = """
SELECT at, is_result, id FROM (
    SELECT uploaded_at AS at, false AS is_result, dataset_id AS id FROM datasets
    WHERE account_id = %(account)s AND %(result)s IS NOT TRUE
    UNION ALL
    SELECT coalesce((SELECT max(happened_at) FROM job_timeline AS story
        WHERE story.job_id = job_detail.job_id AND topic = ANY(%(endings)s)), changed_at),
        true, job_id FROM job_detail
    WHERE account_id = %(account)s AND %(result)s IS NOT FALSE
    AND status = ANY(%(final)s) AND total_steps IS NOT NULL
) AS files
"""


def files_of(
    connection: Connection,
    account_id: UUID,
    limit: int,
    after: FileKey | None = None,
    *,
    ascending: bool = False,
    result: bool | None = None,
) -> list[FileKey]:
    """Return up to `limit` files after a key, sorted by time.

    The file at the key need not exist any more. `result` selects only metrics if True, and only
    uploads if False.
    """
    query = {
        "account": account_id,
        "result": result,
        "endings": ENDINGS,
        "final": [status for status in JobStatus if status.is_final],
        "limit": limit,
    }
    where, direction = "", "ASC" if ascending else "DESC"
    if after is not None:
        query |= {"at": after.at, "after_result": after.is_result, "after_id": after.id}
        sign = ">" if ascending else "<"
        where = f"WHERE (at, is_result, id) {sign} (%(at)s, %(after_result)s, %(after_id)s) "
    rows = connection.execute(
        f"{FILES} {where}"  # type: ignore[arg-type]
        f"ORDER BY at {direction}, is_result {direction}, id {direction} LIMIT %(limit)s",
        query,
    ).fetchall()
    return [FileKey(**row) for row in rows]
