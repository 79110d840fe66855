"""The statements of the caller's account, by day and by job, as JSON and as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from pydantic import Field

from domain.billing.account import Account
from domain.core.errors import Invalid
from gateway.backend import Backend, BackendOf
from gateway.billing.api.ledger import CSV, csv_download
from gateway.http.access import Caller, CallerOf
from gateway.jobs.names import SHORT, JobNames, names_by_id
from gateway.schemas import Answer, JobId, Listed, Money
from projections.statement_csv import daily_csv, job_csv
from projections.statements import (
    DayOfStatement,
    JobOfStatement,
    daily_statement,
    job_statement,
)

DEFAULT_DAYS, MOST_DAYS = 30, 366

router = APIRouter(tags=["billing"])


class StatementDay(Answer):
    """One day's movements: opening, plus what came in, less the charges, is closing."""

    day: date
    opening: Money
    top_ups: Money
    credits: Money
    charges: Money
    reversals: Money = Field(description="Charges that were given back.")
    closing: Money
    event_ids: dict[str, list[str]] = Field(description="The events behind each movement.")

    @classmethod
    def of(cls, day: DayOfStatement) -> StatementDay:
        """The answer for a day."""
        return cls(
            day=day.day,
            opening=Money.of(day.opening_micros),
            top_ups=Money.of(day.top_ups_micros),
            credits=Money.of(day.credits_micros),
            charges=Money.of(day.charges_micros),
            reversals=Money.of(day.reversals_micros),
            closing=Money.of(day.closing_micros),
            event_ids=day.event_ids,
        )


class StatementTotal(Answer):
    """What a statement's days come to."""

    opening: Money
    top_ups: Money
    credits: Money
    charges: Money
    reversals: Money
    closing: Money

    @classmethod
    def of(cls, days: Sequence[StatementDay]) -> StatementTotal:
        """The sum of one day or more."""

        def total(movement: str) -> Money:
            return Money.of(sum(getattr(day, movement).micros for day in days))

        movements = {name: total(name) for name in ("top_ups", "credits", "charges", "reversals")}
        return cls(opening=days[0].opening, closing=days[-1].closing, **movements)


class StatementJob(Answer):
    """What one job was charged, minute by minute, and what of it was given back."""

    job_id: JobId
    name: str = Field(description="The job's suffix, else the beginning of its ID.")
    dataset: str | None = Field(description="Name of its dataset; null: it was deleted.")
    base_model: str | None = Field(description="null: the job is not known yet.")
    segments: int
    minutes: int
    seconds: int
    charges: Money
    reversals: Money
    reversed_seconds: int
    net: Money
    event_ids: dict[str, list[str]] = Field(description="The minutes, and the reversals.")

    @classmethod
    def of(cls, job: JobOfStatement, called: JobNames | None) -> StatementJob:
        """The answer for a job, of which the read model may not have the names yet."""
        return cls(
            job_id=job.job_id,
            name=called.title if called else job.job_id.hex[:SHORT],
            dataset=called.dataset if called else None,
            base_model=called.base_model if called else None,
            segments=job.segments,
            minutes=job.minutes,
            seconds=job.seconds,
            charges=Money.of(job.charges_micros),
            reversals=Money.of(job.reversals_micros),
            reversed_seconds=job.reversed_seconds,
            net=Money.of(job.net_micros),
            event_ids=job.event_ids,
        )


def days_asked(
    caller: CallerOf,
    backend: BackendOf,
    first: Annotated[date | None, Query(description="Default: 30 days before the last.")] = None,
    last: Annotated[date | None, Query(description="Default: today there.")] = None,
) -> tuple[str, date, date]:
    """The account's time zone and the days of a statement, both included; raises Invalid."""
    zone = backend.log.load(Account, caller.account_id).time_zone
    last = last or backend.clock.now().astimezone(ZoneInfo(zone)).date()
    try:
        first = first or last - timedelta(days=DEFAULT_DAYS - 1)
    except OverflowError as error:
        raise Invalid("there are no 30 days before it", field="last") from error
    if not 0 <= (last - first).days < MOST_DAYS:
        raise Invalid(f"a statement has 1 to {MOST_DAYS} days, first to last", field="first")
    return zone, first, last


DaysAsked = Annotated[tuple[str, date, date], Depends(days_asked)]


@router.get("/statements/days")
def show_days(caller: CallerOf, backend: BackendOf, days: DaysAsked) -> Listed[StatementDay]:
    """Show the account's statement by day, in its time zone."""
    return Listed(data=days_of(backend, caller, days))


@router.get("/statements/days.csv", response_class=StreamingResponse, responses=CSV)
def download_days(caller: CallerOf, backend: BackendOf, days: DaysAsked) -> StreamingResponse:
    """Export the statement by day as CSV."""
    return csv_download(daily_csv(_days(backend, caller, days)), "statement-by-day")


@router.get("/statements/jobs")
def show_jobs(caller: CallerOf, backend: BackendOf, days: DaysAsked) -> Listed[StatementJob]:
    """Show the account's statement by job, with all minutes."""
    return Listed(data=jobs_of(backend, caller, days))


@router.get("/statements/jobs.csv", response_class=StreamingResponse, responses=CSV)
def download_jobs(caller: CallerOf, backend: BackendOf, days: DaysAsked) -> StreamingResponse:
    """Export the statement by job as CSV."""
    jobs = _jobs(backend, caller, days)
    names = names_by_id(backend, [job.job_id for job in jobs])
    called = {job_id: (each.title, each.dataset, each.base_model) for job_id, each in names.items()}
    return csv_download(job_csv(jobs, called), "statement-by-job")


def days_of(
    backend: Backend, caller: Caller, days: DaysAsked, *, ids: bool = True
) -> list[StatementDay]:
    """The statement by day, without the events' ids where nobody reads them."""
    return [StatementDay.of(day) for day in _days(backend, caller, days, ids=ids)]


def jobs_of(
    backend: Backend, caller: Caller, days: DaysAsked, *, ids: bool = True
) -> list[StatementJob]:
    """The statement by job, in the same way."""
    jobs = _jobs(backend, caller, days, ids=ids)
    names = names_by_id(backend, [job.job_id for job in jobs])
    return [StatementJob.of(job, names.get(job.job_id)) for job in jobs]


def _days(
    backend: Backend, caller: Caller, days: DaysAsked, *, ids: bool = True
) -> list[DayOfStatement]:
    with backend.pool.connection() as connection:
        return daily_statement(connection, caller.account_id, *days, ids=ids)


def _jobs(
    backend: Backend, caller: Caller, days: DaysAsked, *, ids: bool = True
) -> list[JobOfStatement]:
    with backend.pool.connection() as connection:
        return job_statement(connection, caller.account_id, *days, ids=ids)
