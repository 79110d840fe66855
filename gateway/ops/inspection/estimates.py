"""Approved cost ranges with the actual costs."""

from __future__ import annotations

from dataclasses import dataclass

from domain.core.money import Toward
from gateway.backend import Backend
from gateway.schemas import Money
from projections.estimate_accuracy import Scored, Summary, scored_jobs


@dataclass(frozen=True)
class ListedEstimate:
    """A job with its approved range, rounded outwards, and its cost."""

    job: Scored
    low: Money
    high: Money
    cost: Money | None
    """None until the job ends."""

    @classmethod
    def of(cls, job: Scored) -> ListedEstimate:
        cost = job.actual_micros
        return cls(
            job,
            Money.of(job.low_micros, Toward.DOWN),
            Money.of(job.high_micros, Toward.UP),
            None if cost is None else Money.of(cost),
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
        jobs = scored_jobs(connection)
    newest = [ListedEstimate.of(each) for each in reversed(jobs[-limit:])]
    return Estimates(newest, len(jobs), Summary.of(jobs))
