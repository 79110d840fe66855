"""The metrics of a job as a file of TensorBoard."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

from domain.jobs.public_id import job_name
from extensions.trackers.metric_names import EVALUATION_METRICS, STEP_METRICS, named
from extensions.trackers.tensorboard_events import head, scalars
from infrastructure.postgres.store import Connection
from infrastructure.training.measurements import evaluations_of, steps_of

ROWS = 5_000
"""Rows that one query reads."""

EARLIEST = datetime(1980, 1, 1)
"""Earliest time of a file in an archive."""


def archive(connection: Connection, job_id: UUID, approved_at: datetime) -> bytes:
    """Return a zip file with the event file of a job. Of a repeated step, it has the last values.

    The same measurements give the same bytes.
    """
    content = io.BytesIO()
    name = job_name(job_id)
    # TensorBoard shows the folder as the name of the run.
    path = f"{name}/events.out.tfevents.{int(approved_at.timestamp())}.ecolink"
    moment = max(approved_at.replace(tzinfo=None), EARLIEST).timetuple()[:6]
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        entry = zipfile.ZipInfo(path, moment)
        entry.compress_type = zipfile.ZIP_DEFLATED
        with packed.open(entry, "w", force_zip64=True) as file:
            for record in records(connection, job_id, approved_at):
                file.write(record)
    return content.getvalue()


def records(connection: Connection, job_id: UUID, approved_at: datetime) -> Iterator[bytes]:
    """Yield the records of the event file of a job: steps, and then evaluations.

    The file omits the steps that a crash lost and the job has not repeated.
    """
    yield head(approved_at)
    after, segment = 0, 0
    while rows := steps_of(connection, job_id, after, ROWS):
        after = rows[-1]["step"]
        standing = list[bytes]()
        for row in rows:
            segment = max(segment, row["segment"])
            if row["segment"] == segment:
                standing.append(_scalars(row, STEP_METRICS))
        yield b"".join(standing)
    yield b"".join(_scalars(row, EVALUATION_METRICS) for row in evaluations_of(connection, job_id))


def _scalars(row: dict[str, Any], metrics: dict[str, str]) -> bytes:
    return scalars(row["step"], row["measured_at"], named(row, metrics))
