"""The ledger and the statements of an account."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import date, timedelta
from functools import partial
from typing import Any, NamedTuple, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

from domain.billing.account import Account
from domain.core.errors import Invalid
from gateway.backend import Backend
from gateway.billing.schemas import Posting, StatementDay, StatementJob, StatementTotal
from gateway.http.access import Caller
from gateway.jobs.names import SHORT, names_by_id
from gateway.schemas import Money, Page
from infrastructure.extensions import loaded
from infrastructure.postgres.store import Connection
from projections.billing_ledger import PostingFilter, newest_postings, postings_of
from projections.projection import Row
from projections.statement_csv import daily_csv, job_csv, ledger_csv
from projections.statements import DayOfStatement, JobOfStatement, daily_statement, job_statement

DEFAULT_DAYS, MAX_DAYS = 30, 366
MOVEMENTS = ("top_ups", "refunds", "credits", "charges", "reversals")
CSV_PAGE = 1000
"""Number of postings that a CSV download reads per query."""


class Days(NamedTuple):
    """The date range of a statement, with both ends inclusive, in the account's time zone."""

    time_zone: str
    first: date
    last: date


def time_zone_of(backend: Backend, caller: Caller) -> str:
    return backend.log.load(Account, caller.account_id).time_zone


def days_asked(backend: Backend, caller: Caller, first: date | None, last: date | None) -> Days:
    """Return the valid date range of a statement, by default the last 30 days."""
    zone = time_zone_of(backend, caller)
    last = last or backend.clock.now().astimezone(ZoneInfo(zone)).date()
    try:
        first = first or last - timedelta(days=DEFAULT_DAYS - 1)
    except OverflowError as error:
        raise Invalid(f"{last} is too early. Choose a later day.", field="last") from error
    if not 0 <= (last - first).days < MAX_DAYS:
        raise Invalid(
            f"The period from {first} to {last} is invalid. Choose 1 to {MAX_DAYS:,} days, and "
            "a first day that is not after the last day.",
            field="first",
        )
    return Days(zone, first, last)


def ledger(
    backend: Backend, caller: Caller, only: PostingFilter, after: int, limit: int
) -> Page[Posting]:
    """Return an account's postings after a position, oldest first."""
    with backend.pool.connection() as connection:
        read = partial(postings_of, connection, caller.account_id, only, after)
        return Page[Posting].of(read, limit, _posting)


def newest_ledger(
    backend: Backend, caller: Caller, only: PostingFilter, before: int | None, limit: int
) -> Page[Posting]:
    """Return an account's postings before a position, newest first."""
    with backend.pool.connection() as connection:
        read = partial(newest_postings, connection, caller.account_id, only, before)
        return Page[Posting].of(read, limit, _posting)


def ledger_as_csv(backend: Backend, caller: Caller, only: PostingFilter) -> Iterator[str]:
    return ledger_csv(_all_postings(backend, caller, only))


def _all_postings(backend: Backend, caller: Caller, only: PostingFilter) -> Iterator[Row]:
    """Yield all postings. Read page by page, so that a slow client does not block a connection."""
    after = 0
    while True:
        with backend.pool.connection() as connection:
            page = postings_of(connection, caller.account_id, only, after, CSV_PAGE)
        yield from page
        if len(page) < CSV_PAGE:
            return
        after = page[-1]["position"]


def by_day(backend: Backend, caller: Caller, days: Days, *, ids: bool = True) -> list[StatementDay]:
    """Return the statement by day. Include the event IDs if `ids` is true."""
    return [_day(day) for day in _read(backend, daily_statement, caller, days, ids=ids)]


def by_day_as_csv(backend: Backend, caller: Caller, days: Days) -> Iterator[str]:
    return daily_csv(_read(backend, daily_statement, caller, days, ids=True))


def by_job(backend: Backend, caller: Caller, days: Days, *, ids: bool = True) -> list[StatementJob]:
    """Return the statement by job. Include the event IDs if `ids` is true."""
    jobs = _read(backend, job_statement, caller, days, ids=ids)
    names = _names(backend, jobs)
    return [_job(job, names.get(job.job_id)) for job in jobs]


def by_job_as_csv(backend: Backend, caller: Caller, days: Days) -> Iterator[str]:
    jobs = _read(backend, job_statement, caller, days, ids=True)
    return job_csv(jobs, _names(backend, jobs))


Names = tuple[str, str | None, str | None]
"""The name of a job or synthesis. For a job, also its dataset, and its base model."""


def _names(backend: Backend, jobs: Sequence[JobOfStatement]) -> dict[UUID, Names]:
    found = names_by_id(backend, [job.job_id for job in jobs if not job.synthesis])
    names: dict[UUID, Names] = {
        id: (each.title, each.dataset, each.base_model) for id, each in found.items()
    }
    made = [job.job_id for job in jobs if job.synthesis]
    with backend.pool.connection() as connection:
        return names | {
            id: (each, None, None) for id, each in charge_names(connection, made).items()
        }


def charge_names(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, str]:
    """Return the names of what extensions charged, by ID."""
    found: dict[UUID, str] = {}
    for names_of in loaded(lambda extension: extension.charge_names):
        found |= names_of(connection, ids)
    return found


def total_of(days: Sequence[StatementDay]) -> StatementTotal:
    """Return the totals of one or more days in chronological order."""
    total = {name: sum(getattr(day, name).micros for day in days) for name in MOVEMENTS}
    movements = {name: Money.of(micros) for name, micros in total.items()}
    return StatementTotal(opening=days[0].opening, closing=days[-1].closing, **movements)


T = TypeVar("T")


def _read(
    backend: Backend, statement: Callable[..., list[T]], caller: Caller, days: Days, *, ids: bool
) -> list[T]:
    with backend.pool.connection() as connection:
        return statement(connection, caller.account_id, *days, ids=ids)


def _posting(row: Row) -> Posting:
    return Posting(**{**row, "amount": Money.of(row["amount_micros"])})


def _day(day: DayOfStatement) -> StatementDay:
    amounts = _amounts(day, "opening", *MOVEMENTS, "closing")
    return StatementDay(day=day.day, event_ids=day.event_ids, **amounts)


def _amounts(row: DayOfStatement | JobOfStatement, *names: str) -> dict[str, Any]:
    return {name: Money.of(getattr(row, f"{name}_micros")) for name in names}


def _job(job: JobOfStatement, names: Names | None) -> StatementJob:
    name, dataset, base_model = names or (job.job_id.hex[:SHORT], None, None)
    return StatementJob(
        job_id=None if job.synthesis else job.job_id,
        synthesis_id=job.job_id if job.synthesis else None,
        name=name,
        dataset=dataset,
        base_model=base_model,
        segments=job.segments,
        minutes=job.minutes,
        seconds=job.seconds,
        reversed_seconds=job.reversed_seconds,
        event_ids=job.event_ids,
        **_amounts(job, "charges", "reversals", "net"),
    )
