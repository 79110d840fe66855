"""Approved cost ranges with the price of the actual time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from domain.core.money import Toward
from gateway.backend import Backend
from gateway.schemas import Money
from projections.estimate_accuracy import Scored, Summary, csv_lines, newest_scored, summary
from projections.estimates import count_estimates, rows_after
from projections.projection import Row

PART = 500
"""Estimates that one query of the CSV reads."""


@dataclass(frozen=True)
class ListedEstimate:
    """A job with its approved range, rounded outwards, and the price of its time."""

    job: Scored
    low: Money
    high: Money
    price: Money | None
    """None until the job ends."""

    @classmethod
    def of(cls, job: Scored) -> ListedEstimate:
        price = job.actual_micros
        return cls(
            job,
            Money.of(job.low_micros, Toward.DOWN),
            Money.of(job.high_micros, Toward.UP),
            None if price is None else Money.of(price),
        )


@dataclass(frozen=True)
class Estimates:
    """The newest jobs with an estimate, the number of all, and the accuracy of all."""

    newest: list[ListedEstimate]
    count: int
    summary: Summary | None
    """None if no job with an estimate has ended."""


def estimates(backend: Backend, limit: int) -> Estimates:
    """Return the newest `limit` jobs of all accounts with an estimate, newest first."""
    with backend.pool.connection() as connection:
        newest = [ListedEstimate.of(each) for each in newest_scored(connection, limit)]
        return Estimates(newest, count_estimates(connection), summary(connection))


def estimates_as_csv(backend: Backend) -> Iterator[str]:
    """Yield the CSV lines of the estimates of all jobs. This reads a part of them at a time."""
    return csv_lines(Scored.of(row) for row in _rows(backend))


def _rows(backend: Backend) -> Iterator[Row]:
    last: Row | None = None
    while True:
        with backend.pool.connection() as connection:
            rows = rows_after(connection, last, PART)
        yield from rows
        if len(rows) < PART:
            return
        last = rows[-1]
