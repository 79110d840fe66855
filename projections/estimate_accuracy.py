"""The accuracy of estimates: approved ranges and the price of the time that jobs used."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from io import StringIO
from uuid import UUID

from domain.jobs.public_id import job_name
from domain.training.phases import Phase
from infrastructure.postgres.store import Connection
from projections.estimates import newest_rows, report_rows
from projections.projection import Row


@dataclass(frozen=True)
class Scored:
    """An estimate and the price of the actual time.

    Fields that depend on the actual time are None until the job ends.
    """

    job: str
    base_model: str
    gpu_type: str
    gpu_count: int
    precision: str
    tokens: int
    calibrated_from: int
    segments: int | None
    low_micros: int
    high_micros: int
    actual_micros: int | None
    low_seconds: int
    high_seconds: int
    actual_seconds: int | None
    inside: bool | None
    position: float | None  # position in the range; 0: the lower bound, 1: the upper
    training_share: float | None  # of the bill

    @classmethod
    def of(cls, row: Row) -> Scored:
        """Return the score of a row of the projection."""
        low, high, actual = row["low_micros"], row["high_micros"], row["actual_micros"]
        spent = sum((row["phase_seconds"] or {}).values())
        return cls(
            job=job_name(row["job_id"]),
            **{
                each.name: row[each.name]
                for each in fields(cls)
                if each.name not in ("job", "inside", "position", "training_share")
            },
            inside=None if actual is None else low <= actual <= high,
            position=None if actual is None or high == low else (actual - low) / (high - low),
            training_share=row["phase_seconds"].get(Phase.TRAINING, 0.0) / spent if spent else None,
        )


@dataclass(frozen=True)
class Summary:
    """The accuracy of the ranges of jobs that ended and ran in one segment.

    A paused or relaunched job starts up several times, which no range includes.
    """

    scored: int
    in_segments: int  # ended jobs that are not included
    inside: int
    width: float  # median of high / low - 1
    bias: float  # median of actual / geometric mean of the range - 1

    def __str__(self) -> str:
        return (
            f"{self.inside:,} of {self.scored:,} inside their range "
            f"({self.inside / self.scored:.0%}); median width {self.width:.1%}; bias "
            f"{self.bias:+.1%} of the middle."
            + (
                f" {self.in_segments} in several segments are not included."
                if self.in_segments
                else ""
            )
        )


SUMMARY = """
SELECT count(*) FILTER (WHERE segments = 1) AS scored,
    count(*) FILTER (WHERE segments IS DISTINCT FROM 1) AS in_segments,
    count(*) FILTER (WHERE segments = 1 AND actual_micros BETWEEN low_micros AND high_micros)
        AS inside,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY high_micros / low_micros::float8 - 1)
        FILTER (WHERE segments = 1) AS width,
    percentile_cont(0.5) WITHIN GROUP (
        ORDER BY actual_micros / sqrt(low_micros::float8 * high_micros) - 1
    ) FILTER (WHERE segments = 1) AS bias
FROM estimates WHERE actual_micros IS NOT NULL AND low_micros > 0
    AND (%(account)s::uuid IS NULL OR account_id = %(account)s)
"""


def summary(connection: Connection, account_id: UUID | None = None) -> Summary | None:
    """Return the accuracy of the ranges of one account's jobs, or of all jobs.

    Return None if no job with a range above zero ended in one segment.
    """
    row = connection.execute(SUMMARY, {"account": account_id}).fetchone()
    return Summary(**row) if row and row["scored"] else None


def scored_jobs(connection: Connection, account_id: UUID | None = None) -> list[Scored]:
    """Return all jobs with an estimate, of one account or of all, in order of approval."""
    rows = report_rows(connection)
    return [Scored.of(row) for row in rows if account_id in (None, row["account_id"])]


def newest_scored(connection: Connection, limit: int) -> list[Scored]:
    """Return the newest `limit` jobs with an estimate, newest first."""
    return [Scored.of(row) for row in newest_rows(connection, limit)]


def csv_lines(jobs: Iterable[Scored]) -> Iterator[str]:
    """Yield a table in CSV with a row for each job. Its columns are the fields of `Scored`."""
    text = StringIO()
    writer = csv.DictWriter(text, [each.name for each in fields(Scored)], lineterminator="\n")
    writer.writeheader()
    for job in jobs:
        yield text.getvalue()
        text.seek(0)
        text.truncate()
        writer.writerow(asdict(job))
    yield text.getvalue()
