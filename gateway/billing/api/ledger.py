"""The ledger of the caller's account, as JSON and as CSV."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from pydantic import Field

from domain.billing.account import Account
from domain.core.errors import Invalid
from gateway.backend import Backend, BackendOf
from gateway.http.access import Caller, CallerOf
from gateway.http.paging import LARGEST_PAGE, After, Limit, Page
from gateway.schemas import Answer, JobId, Money
from projections.billing_ledger import Only, Reason, newest_postings, postings_of
from projections.projection import Row
from projections.statement_csv import ledger_csv

PAGE_POSTINGS = 1000

CSV: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/csv": {"schema": {"type": "string"}}}, "description": "CSV."}
}
"""What OpenAPI says of a download."""

router = APIRouter(tags=["billing"])


class Posting(Answer):
    """One posting of the ledger: the same amount leaves one account and enters another."""

    event_id: str
    position: int = Field(description="Within the account's postings, from 1.")
    posted_at: datetime
    debit: str
    credit: str
    amount: Money
    reason: str = Field(examples=["minute metered"])
    reference: str | None = Field(description="Of a top-up or a credit.")
    job_id: JobId | None
    segment: int | None
    minute: int | None
    from_seconds: int | None
    to_seconds: int | None

    @classmethod
    def of(cls, row: Row) -> Posting:
        """The answer for a posting."""
        return cls(**{**row, "amount": Money.of(row["amount_micros"])})


def postings_asked(
    caller: CallerOf,
    backend: BackendOf,
    job: Annotated[JobId | None, Query(description="Only this job's postings.")] = None,
    reason: Annotated[list[Reason] | None, Query(description="Only those for this.")] = None,
    first: Annotated[date | None, Query(description="Only from this day on.")] = None,
    last: Annotated[date | None, Query(description="Only until this day.")] = None,
) -> Only:
    """Which postings a request asks for; days are those of the account. Raises Invalid."""
    if first is not None and last is not None and last < first:
        raise Invalid("the last day is before the first", field="last")
    zone = backend.log.load(Account, caller.account_id).time_zone
    return Only(job, reason, first, last, zone)


PostingsAsked = Annotated[Only, Depends(postings_asked)]


@router.get("/ledger")
def show_ledger(
    caller: CallerOf,
    backend: BackendOf,
    only: PostingsAsked,
    after: Annotated[After, Query(description="Only postings at a higher position.")] = 0,
    limit: Limit = LARGEST_PAGE,
) -> Page[Posting]:
    """List the postings of your account, in order."""
    with backend.pool.connection() as connection:
        return Page[Posting].of(
            partial(postings_of, connection, caller.account_id, only, after), limit, Posting.of
        )


def newest(
    backend: Backend, caller: Caller, only: Only, before: int | None, limit: int
) -> Page[Posting]:
    """The newest of them first; those before a position."""
    with backend.pool.connection() as connection:
        return Page[Posting].of(
            partial(newest_postings, connection, caller.account_id, only, before),
            limit,
            Posting.of,
        )


@router.get("/ledger.csv", response_class=StreamingResponse, responses=CSV)
def download_ledger(caller: CallerOf, backend: BackendOf, only: PostingsAsked) -> StreamingResponse:
    """Export the postings of your account as CSV."""
    return csv_download(ledger_csv(_all_postings(backend, caller, only)), "ledger")


def _all_postings(backend: Backend, caller: Caller, only: Only) -> Iterator[Row]:
    """Page by page, so that a slow reader holds no connection; the ledger only grows."""
    after = 0
    while True:
        with backend.pool.connection() as connection:
            page = postings_of(connection, caller.account_id, only, after, PAGE_POSTINGS)
        yield from page
        if len(page) < PAGE_POSTINGS:
            return
        after = page[-1]["position"]


def csv_download(lines: Iterator[str], name: str) -> StreamingResponse:
    """Lines as a file that a browser saves."""
    return StreamingResponse(
        lines,
        media_type="text/csv; charset=utf-8",
        headers={"content-disposition": f'attachment; filename="ecolink-{name}.csv"'},
    )
