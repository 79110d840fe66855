"""Routes of accounts, the ledger and statements under /api."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import StreamingResponse

from domain.billing.budget import BudgetName, BudgetPeriod
from domain.core.errors import Invalid
from gateway.backend import BackendOf
from gateway.billing import budgets, service, statements
from gateway.billing.schemas import (
    AccountResponse,
    BudgetRequest,
    BudgetResponse,
    Credit,
    OwnTopUp,
    Posting,
    StatementDay,
    StatementJob,
    TopUp,
)
from gateway.billing.statements import Days
from gateway.http.access import CallerOf
from gateway.http.errors import refusals
from gateway.http.operations import Operation
from gateway.http.origin import on_this_host
from gateway.http.paging import LARGEST_PAGE, After, Limit
from gateway.http.permissions import MayPay, MayRead, MayReadAll, OperatorCredits
from gateway.schemas import JobId, Listed, Page
from projections.accounts import AccountFilter
from projections.billing_ledger import PostingFilter, Reason

CSV: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/csv": {"schema": {"type": "string"}}}, "description": "CSV."}
}

router = APIRouter()
accounts = APIRouter(tags=["accounts"], route_class=Operation)
billing = APIRouter(tags=["billing"], route_class=Operation)


@accounts.get("/account")
def show_account(caller: MayRead, backend: BackendOf) -> AccountResponse:
    """Show your account."""
    return service.account_of(backend, caller)


@accounts.get("/accounts", responses=refusals(404))
def list_accounts(
    caller: MayReadAll,
    backend: BackendOf,
    name: Annotated[
        str, Query(max_length=200, description="Return only accounts whose name contains this.")
    ] = "",
    suspended: Annotated[bool, Query(description="Return only suspended accounts.")] = False,
    after: Annotated[UUID | None, Query(description="Return accounts after this one.")] = None,
    limit: Limit = LARGEST_PAGE,
) -> Page[AccountResponse]:
    """List all accounts, oldest first. Only operators and auditors can do this.

    An auditor reads an account by sending its ID in the header `Ecolink-Account` of any GET.
    """
    return service.list_accounts(backend, AccountFilter(name, suspended), after, limit)


@accounts.post("/account/top-ups", responses=refusals(403, 409))
def top_up_own(
    payment: OwnTopUp,
    request: Request,
    caller: MayPay,
    backend: BackendOf,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> AccountResponse:
    """Top up your balance. Requests with the same `Idempotency-Key` create only one payment.

    Returns 403 if self-service top-up is disabled. EcoLink accepts test payments only from its own
    host, without a proxy, and up to $1,000 a day.
    """
    local = on_this_host(request)
    return service.top_up_own(backend, caller, payment.amount, idempotency_key, local=local)


@accounts.get("/account/budgets")
def list_budgets(caller: MayRead, backend: BackendOf) -> Listed[BudgetResponse]:
    """List your budgets with the charges of their current periods."""
    return Listed(data=budgets.budgets_of(backend, caller))


@accounts.post("/account/budgets", responses=refusals(404))
def set_budget(wanted: BudgetRequest, caller: MayPay, backend: BackendOf) -> Listed[BudgetResponse]:
    """Set a budget for each calendar day or month in UTC. Returns all budgets.

    With `key_id`, the budget limits only the jobs that this API key approved or last resumed. Such
    a budget can also be in total. Running jobs save a checkpoint and pause before the charges of
    the period exceed the budget. EcoLink records when 50, 80 and 100 percent are used. A lower
    limit applies from the next lease on: running jobs may use the GPU time that they have already
    paid for. Paused jobs do not resume automatically.
    """
    name = BudgetName(wanted.period, wanted.key_id)
    return Listed(data=budgets.set_budget(backend, caller, name, wanted.limit))


@accounts.delete("/account/budgets/{period}", status_code=204, responses=refusals(404))
def remove_budget(
    period: BudgetPeriod,
    caller: MayPay,
    backend: BackendOf,
    key_id: Annotated[
        UUID | None,
        Query(description="API key of the budget. By default, the budget for all jobs."),
    ] = None,
) -> None:
    """Remove a budget. If it is not set, nothing changes."""
    budgets.remove_budget(backend, caller, BudgetName(period, key_id))


@accounts.post("/accounts/{account_id}/credits", responses=refusals(403, 404, 409))
def grant_credit(
    account_id: UUID, credit: Credit, caller: OperatorCredits, backend: BackendOf
) -> AccountResponse:
    """Grant a credit to an account. EcoLink adds each `reference` only once."""
    return service.grant_credit(backend, caller, account_id, credit)


@accounts.post("/accounts/{account_id}/top-ups", responses=refusals(403, 404, 409))
def top_up(
    account_id: UUID, payment: TopUp, caller: OperatorCredits, backend: BackendOf
) -> AccountResponse:
    """Add a received payment to an account. EcoLink adds each `reference` only once."""
    return service.confirm_top_up(backend, caller, account_id, payment)


def postings_asked(
    caller: CallerOf,
    backend: BackendOf,
    job: Annotated[JobId | None, Query(description="Return only postings of this job.")] = None,
    reason: Annotated[
        list[Reason] | None, Query(description="Return only postings for these reasons.")
    ] = None,
    first: Annotated[
        date | None, Query(description="First day, in your account's time zone.")
    ] = None,
    last: Annotated[
        date | None, Query(description="Last day, in your account's time zone.")
    ] = None,
) -> PostingFilter:
    """Return the filter of a ledger request. Raise Invalid if the days are out of order."""
    if first is not None and last is not None and last < first:
        raise Invalid(
            f"The last day {last} is before the first day {first}. Choose a later last day.",
            field="last",
        )
    return PostingFilter(job, reason, first, last, statements.time_zone_of(backend, caller))


PostingsAsked = Annotated[PostingFilter, Depends(postings_asked)]


@billing.get("/ledger")
def show_ledger(
    caller: MayRead,
    backend: BackendOf,
    only: PostingsAsked,
    after: Annotated[After, Query(description="Return only postings after this position.")] = 0,
    limit: Limit = LARGEST_PAGE,
) -> Page[Posting]:
    """List the postings of your account, oldest first."""
    return statements.ledger(backend, caller, only, after, limit)


@billing.get("/ledger.csv", response_class=StreamingResponse, responses=CSV)
def download_ledger(caller: MayRead, backend: BackendOf, only: PostingsAsked) -> StreamingResponse:
    """Download the postings of your account as CSV."""
    return _csv(statements.ledger_as_csv(backend, caller, only), "ledger")


def days_asked(
    caller: CallerOf,
    backend: BackendOf,
    first: Annotated[
        date | None, Query(description="First day. By default, 29 days before the last day.")
    ] = None,
    last: Annotated[
        date | None, Query(description="Last day. By default, today in your account's time zone.")
    ] = None,
) -> Days:
    """Return the date range of a statement request. Raise Invalid if the range is invalid."""
    return statements.days_asked(backend, caller, first, last)


DaysAsked = Annotated[Days, Depends(days_asked)]


@billing.get("/statements/days")
def show_days(caller: MayRead, backend: BackendOf, days: DaysAsked) -> Listed[StatementDay]:
    """Show your statement by day, in your account's time zone."""
    return Listed(data=statements.by_day(backend, caller, days))


@billing.get("/statements/days.csv", response_class=StreamingResponse, responses=CSV)
def download_days(caller: MayRead, backend: BackendOf, days: DaysAsked) -> StreamingResponse:
    """Download your statement by day as CSV."""
    return _csv(statements.by_day_as_csv(backend, caller, days), "statement-by-day")


@billing.get("/statements/jobs")
def show_jobs(caller: MayRead, backend: BackendOf, days: DaysAsked) -> Listed[StatementJob]:
    """Show your statement by job, with the events that caused each charge."""
    return Listed(data=statements.by_job(backend, caller, days))


@billing.get("/statements/jobs.csv", response_class=StreamingResponse, responses=CSV)
def download_jobs(caller: MayRead, backend: BackendOf, days: DaysAsked) -> StreamingResponse:
    """Download your statement by job as CSV."""
    return _csv(statements.by_job_as_csv(backend, caller, days), "statement-by-job")


def _csv(lines: Iterator[str], name: str) -> StreamingResponse:
    return StreamingResponse(
        lines,
        media_type="text/csv; charset=utf-8",
        headers={"content-disposition": f'attachment; filename="ecolink-{name}.csv"'},
    )


for each in (accounts, billing):
    router.include_router(each)
