"""The billing page, with the balance, top-up, statements and the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode
from uuid import UUID, uuid4

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from domain.billing.budget import BudgetName, BudgetPeriod
from domain.core.aggregate import because
from domain.core.errors import Invalid
from domain.core.identity import created_id
from domain.core.money import Toward, decimal_dollars, in_cents, payment_micros_of
from domain.jobs.lifecycle import PauseReason
from gateway.backend import Backend, BackendOf
from gateway.billing import statements
from gateway.billing.budgets import BudgetRefused, budgets_of, remove_budget, set_budget
from gateway.billing.schemas import AccountResponse, BudgetResponse
from gateway.billing.service import (
    PAYMENT_PAGES,
    Runway,
    account_of,
    own_provider,
    runway_of,
    top_up_own,
)
from gateway.billing.spend_chart import spend_chart
from gateway.billing.statements import Days, charge_names
from gateway.http.access import Caller, CallerOf
from gateway.http.origin import base_url, on_this_host
from gateway.http.paging import MOST_POSITION
from gateway.http.permissions import MayPay, MayRead
from gateway.http.slow_work import slow
from gateway.jobs.names import names_by_id
from gateway.jobs.schemas import ResumeGate
from gateway.jobs.service import job_detail, own_job
from gateway.keys.service import list_keys
from gateway.schemas import JobId, Money, job_name
from gateway.web.addresses import Given, query_of
from gateway.web.rendering import fragment, page, panel_data
from infrastructure.payments.provider import CardOrder, CardProvider, card_provider
from projections.billing_ledger import PostingFilter, Reason, balances_after, last_position
from projections.job_detail import jobs_paused_for

PAGE_POSTINGS = 50
MAX_QUOTES = 3  # number of paused jobs for which the banner quotes a resume

router = APIRouter(prefix="/billing")


class Kind(StrEnum):
    PAID_IN = "paid-in"
    MINUTES = "minutes"
    RETURNED = "returned"
    LEASES = "leases"
    ALL = "all"


LEASE_REASONS = (Reason.LEASE_RESERVED, Reason.LEASE_RELEASED)
PROVIDER_REASONS = (
    *(Reason.PAYMENT_RETURNED, Reason.RETURN_REVERSED),
    *(Reason.RETURN_LOST, Reason.LOSS_RECOVERED),
)
MINUTE_REASONS = (Reason.MINUTE_METERED, Reason.MINUTE_COVERED, Reason.TOKENS_METERED)
OTHER_REASONS = (*LEASE_REASONS, *PROVIDER_REASONS, Reason.MINUTE_COVERED)
MOVING_REASONS = tuple(r for r in Reason if r not in OTHER_REASONS)
"""Reasons that change the balance. Leases only reserve parts of the balance."""

PAID_IN_REASONS = (
    *(Reason.TOPPED_UP, Reason.CREDIT_GRANTED),
    *(Reason.TOP_UP_WITHHELD, Reason.TOP_UP_RESTORED),
)

KINDS: dict[Kind, tuple[str, tuple[Reason, ...]]] = {
    Kind.PAID_IN: ("Paid in and refunded", PAID_IN_REASONS),
    Kind.MINUTES: ("Metered minutes and tokens", MINUTE_REASONS),
    Kind.RETURNED: ("Credited back", (Reason.LOST_WORK_CREDITED,)),
    Kind.LEASES: ("Reserved and released", LEASE_REASONS),
    Kind.ALL: ("All, with reservations", tuple(Reason)),
}


class DaysRefused(NamedTuple):
    """An invalid date range in a request. The page then shows the last 30 days."""

    first: date | None
    last: date | None
    why: str


@dataclass(frozen=True)
class TopUpForm:
    """The fields of the top-up form."""

    command_key: Annotated[str, Form(min_length=1, max_length=100)]
    amount: Annotated[str, Form(max_length=40)] = ""
    save_card: Annotated[bool, Form()] = False


class AddressQuery(BaseModel):
    """Query parameters of the page's URL."""

    job: Annotated[JobId | None, Given] = None
    kind: Annotated[Kind | None, Given] = None
    before: int | None = Field(default=None, ge=1, le=MOST_POSITION)
    first: Annotated[date | None, Given] = None
    last: Annotated[date | None, Given] = None


@dataclass(frozen=True)
class Asked:
    """The days and postings that the page shows."""

    days: Days
    job: JobId | None
    kind: Kind | None
    before: int | None
    days_given: bool
    """True if the URL has a date range. Otherwise, the range always ends today."""
    refused: DaysRefused | None = None

    @property
    def time_zone(self) -> str:
        return self.days.time_zone

    @property
    def first(self) -> date:
        return self.days.first

    @property
    def last(self) -> date:
        return self.days.last

    @property
    def only(self) -> PostingFilter:
        """Filter of the postings, by default without reservations."""
        reasons = KINDS[self.kind][1] if self.kind else MOVING_REASONS
        return PostingFilter(self.job, reasons, self.first, self.last, self.time_zone)

    def query(self, **change: object) -> str:
        """Return the query string of the page's URL with the given parameters changed."""
        fields: dict[str, object] = {"kind": self.kind}
        if self.days_given:
            fields |= {"first": self.first, "last": self.last}
        fields |= {"job": job_name(self.job) if self.job else None, "before": self.before}
        return query_of(fields | change)

    def posted(self, now: MoneyNow) -> str:
        """Return a key that changes when the page has new postings or a new day to show."""
        return f"{now.position} {self.last}"

    @property
    def csv_query(self) -> str:
        """Query string that requests the same postings from the API."""
        job = [("job", job_name(self.job))] if self.job else []
        reasons = [("reason", str(reason)) for reason in self.only.reasons or ()]
        days = [("first", str(self.first)), ("last", str(self.last))]
        return urlencode([*days, *job, *reasons])


def asked(caller: CallerOf, backend: BackendOf, query: Annotated[AddressQuery, Query()]) -> Asked:
    """Return the days and postings that a URL requests, by default the last 30 days."""
    try:
        days, refused = statements.days_asked(backend, caller, query.first, query.last), None
    except Invalid as problem:
        days = statements.days_asked(backend, caller, None, None)
        refused = DaysRefused(query.first, query.last, problem.message)
    given = refused is None and bool(query.first or query.last)
    return Asked(days, query.job, query.kind, query.before, days_given=given, refused=refused)


AskedOf = Annotated[Asked, Depends(asked)]


@dataclass(frozen=True)
class PausedJob:
    """A job that was paused because the balance reached zero."""

    id: JobId
    title: str
    gate: ResumeGate | None


@dataclass(frozen=True)
class MoneyNow:
    """Values that change while the page is open."""

    account: AccountResponse
    runway: Runway
    waiting: tuple[JobId, ...]
    budgets: tuple[BudgetResponse, ...]
    position: int
    """Position of the newest posting."""

    @property
    def seen(self) -> str:
        return sha256(repr(self).encode()).hexdigest()[:16]


def money_now(backend: Backend, caller: Caller) -> MoneyNow:
    account = account_of(backend, caller)
    with backend.pool.connection() as connection:
        paused = jobs_paused_for(connection, caller.account_id, PauseReason.BALANCE)
        position = last_position(connection, caller.account_id)
    budgets = tuple(budgets_of(backend, caller))
    return MoneyNow(account, runway_of(backend, account), tuple(paused), budgets, position)


@router.get("")
def show_billing(request: Request, caller: MayRead, backend: BackendOf, asked: AskedOf) -> Response:
    now = money_now(backend, caller)
    shown = _figures(backend, caller, asked, now) | _postings(backend, caller, asked)
    form = _form(request, backend, *shown["waiting"])
    form["budget_keys"] = list_keys(backend, caller)
    form |= panel_data("billing.cards", backend, caller)
    return page(request, backend, caller, "billing/page.html", **shown, **form)


@router.get("/now")
def show_now(
    caller: MayRead,
    backend: BackendOf,
    asked: AskedOf,
    seen: Annotated[str, Query()] = "",
    posted: Annotated[str, Query()] = "",
) -> Response:
    """Return the changed parts of the page, or 204 if nothing changed.

    The statement and the ledger change only after a posting or at the start of a new day.
    """
    now = money_now(backend, caller)
    moved = posted != asked.posted(now)
    if now.seen == seen and not moved:
        return Response(status_code=204)
    shown = _figures(backend, caller, asked, now)
    if moved:
        shown |= _postings(backend, caller, asked)
    return fragment("billing/now.html", account=now.account, moved=moved, **shown)


@router.post("/budgets")
def change_budget(
    caller: MayPay,
    backend: BackendOf,
    period: Annotated[BudgetPeriod, Form()],
    key_id: Annotated[UUID | None, Form()] = None,
    limit: Annotated[str, Form(max_length=40)] = "",
    remove: Annotated[bool, Form()] = False,
) -> Response:
    """Set a budget, or remove it."""
    name, refused = BudgetName(period, key_id), None
    try:
        if remove:
            budgets = remove_budget(backend, caller, name)
        else:
            budgets = set_budget(backend, caller, name, limit)
    except Invalid as problem:
        budgets = budgets_of(backend, caller)
        refused = BudgetRefused(name, limit, problem.message)
    keys = list_keys(backend, caller)
    return fragment("billing/budgets.html", budgets=budgets, budget_keys=keys, refused=refused)


@router.post("/top-ups")
@slow
def top_up(
    request: Request,
    caller: MayPay,
    backend: BackendOf,
    asked: AskedOf,
    entered: Annotated[TopUpForm, Depends()],
) -> Response:
    """Top up the balance. Submitting the same form twice creates one payment."""
    amount = entered.amount
    try:
        if not amount.strip():
            raise Invalid(
                "The amount is empty. Enter an amount in dollars, such as 25.00.", field="amount"
            )
        if (cards := card_provider()) is not None:
            return _to_checkout(request, backend, caller, cards, entered)
        top_up_own(backend, caller, amount, entered.command_key, local=on_this_host(request))
        added = Money.of(payment_micros_of(amount, field="amount"))
    except Invalid as problem:
        if problem.field != "amount":
            raise
        form = _form(request, backend)
        form |= {"amount": amount, "problem": problem.message}
        return fragment("billing/refused.html", asked=asked, **form)
    now = money_now(backend, caller)
    shown = _figures(backend, caller, asked, now) | _postings(backend, caller, asked)
    shown |= _form(request, backend) | {"moved": True, "added": added}
    return fragment("billing/topped_up.html", account=now.account, **shown)


def _to_checkout(
    request: Request, backend: Backend, caller: Caller, cards: CardProvider, entered: TopUpForm
) -> Response:
    """Send the browser to the provider, or to the payment's page if it cannot be paid any more."""
    payment_id = created_id(caller.account_id, "card-payment", entered.command_key)
    micros = payment_micros_of(entered.amount, field="amount")
    order = CardOrder(payment_id, caller.account_id, micros, entered.save_card)
    with because(caller.cause(backend)):
        url = cards.start(backend.log, order, f"{base_url(request)}{PAYMENT_PAGES}")
    return Response(headers={"hx-redirect": url or f"{PAYMENT_PAGES}/{payment_id}"})


def _figures(backend: Backend, caller: Caller, asked: Asked, now: MoneyNow) -> dict[str, Any]:
    return {"now": now, "waiting": list(_paused_jobs(backend, caller, now)), "asked": asked}


def _postings(backend: Backend, caller: Caller, asked: Asked) -> dict[str, Any]:
    if asked.job is not None:
        own_job(backend, caller, asked.job)
    days = statements.by_day(backend, caller, asked.days, ids=False)
    jobs = statements.by_job(backend, caller, asked.days, ids=False)
    total = statements.total_of(days)
    ledger = statements.newest_ledger(backend, caller, asked.only, asked.before, PAGE_POSTINGS)
    positions = [each.position for each in ledger.data]
    with backend.pool.connection() as connection:
        balances = balances_after(connection, caller.account_id, positions)
        generated = {each.synthesis_id for each in (*jobs, *ledger.data)} - {None}
        made = charge_names(connection, [each for each in generated if each is not None])
    ids = {job.job_id for job in jobs} | {each.job_id for each in ledger.data} | {asked.job}
    return {
        "kinds": {kind: label for kind, (label, _) in KINDS.items()},
        "days": [
            day for day in days if any(getattr(day, name).micros for name in statements.MOVEMENTS)
        ],
        "total": total,
        "net": Money.of(total.charges.micros - total.reversals.micros),
        "chart": spend_chart(days),
        "jobs": jobs,
        "ledger": ledger,
        "balances": {position: Money.of(micros) for position, micros in balances.items()},
        "names": names_by_id(backend, [each for each in ids if each is not None]),
        "made": made,
    }


def _form(request: Request, backend: Backend, *paused: PausedJob) -> dict[str, Any]:
    cards = card_provider()
    provider = cards or own_provider(backend, local=on_this_host(request))
    gates = (each.gate for each in paused)
    missing = max((gate.missing.micros for gate in gates if gate and gate.missing), default=0)
    return {
        "cards": cards,
        "provider": None if provider is None else provider.name,
        "instructions": backend.settings.payment_instructions,
        "command_key": uuid4().hex,
        "amount": decimal_dollars(in_cents(missing, Toward.UP))[:-4] if missing else "",
        "problem": None,
    }


def _paused_jobs(backend: Backend, caller: Caller, now: MoneyNow) -> Iterator[PausedJob]:
    names = names_by_id(backend, now.waiting)
    for number, job_id in enumerate(now.waiting):
        gate = job_detail(backend, caller, job_id).resume if number < MAX_QUOTES else None
        yield PausedJob(job_id, names[job_id].title, gate)
