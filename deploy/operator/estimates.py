"""`ecolink estimates`, which compares approved cost ranges with actual costs."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from statistics import median
from typing import Annotated
from uuid import UUID

import typer
from rich.table import Table

from deploy.operator.accounts import console
from deploy.operator.store import open_store
from domain.core.money import exact_dollars
from domain.training.phases import Phase
from gateway.cli.terminal import screen
from infrastructure.store import Connection
from projections import ESTIMATES
from projections.estimates import report_rows
from projections.projection import Row

commands = typer.Typer(
    name="estimates", no_args_is_help=True, help="Compare estimates with actual costs."
)


NO_ESTIMATES, NONE_ENDED = "No job has an estimate yet.", "No job has ended yet."


@commands.callback()
def root() -> None:
    """Compare estimates with actual costs."""


@dataclass(frozen=True)
class Scored:
    """An estimate and the actual cost. Fields that depend on it are None until the job ends."""

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
            job=f"ftjob-{row['job_id']}",
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

    @classmethod
    def of(cls, jobs: Sequence[Scored]) -> Summary | None:
        """Return the summary, or None if no job with a range above zero has ended."""
        ended = [each for each in jobs if each.actual_micros is not None and each.low_micros > 0]
        over = [each for each in ended if each.segments == 1]
        if not over:
            return None
        return cls(
            scored=len(over),
            in_segments=len(ended) - len(over),
            inside=sum(bool(each.inside) for each in over),
            width=median(each.high_micros / each.low_micros for each in over) - 1,
            bias=median(_over_middle(each) for each in over) - 1,
        )

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


def _over_middle(job: Scored) -> float:
    return (job.actual_micros or 0) / math.sqrt(job.low_micros * job.high_micros)


@commands.command()
def report(
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Show the approved range and the actual cost of each job, and the accuracy of all ranges."""
    with open_store() as store:
        store.fold(ESTIMATES)
        jobs = scored_jobs(store.connection)
    if as_csv:
        writer = csv.DictWriter(sys.stdout, [each.name for each in fields(Scored)])
        writer.writeheader()
        writer.writerows(asdict(each) for each in jobs)
        return
    if not jobs:
        console.print(NO_ESTIMATES)
        return
    show(jobs)


def scored_jobs(connection: Connection, account_id: UUID | None = None) -> list[Scored]:
    """Return all jobs with an estimate, of one account or of all."""
    rows = report_rows(connection)
    return [Scored.of(row) for row in rows if account_id in (None, row["account_id"])]


def show(jobs: Sequence[Scored]) -> None:
    """Print each job, and the accuracy of all ranges."""
    screen().print(_table(jobs))
    console.print(str(Summary.of(jobs) or NONE_ENDED))


def _table(jobs: Sequence[Scored]) -> Table:
    table = Table(box=None)
    for name in ("job", "base", "GPUs", "precision"):
        table.add_column(name, overflow="fold")
    for name in (
        "tokens",
        "range",
        "cost",
        "range s",
        "took s",
        "inside",
        "at",
        "from",
        "training",
    ):
        table.add_column(name, justify="right")
    for each in jobs:
        table.add_row(
            each.job,
            each.base_model,
            f"{each.gpu_count} x {each.gpu_type}",
            each.precision,
            f"{each.tokens:,}",
            f"{exact_dollars(each.low_micros)}-{exact_dollars(each.high_micros)}",
            "" if each.actual_micros is None else exact_dollars(each.actual_micros),
            f"{each.low_seconds}-{each.high_seconds}",
            "" if each.actual_seconds is None else str(each.actual_seconds),
            {None: "", True: "yes", False: "no"}[each.inside],
            "" if each.position is None else f"{each.position:.0%}",
            f"{each.calibrated_from} jobs" if each.calibrated_from else "catalog",
            "" if each.training_share is None else f"{each.training_share:.0%}",
        )
    return table
