"""The page of money: balance and runway, top-up, statements, and the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode
from uuid import uuid4

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import Response

from domain.core.errors import Invalid
from domain.core.money import Toward, decimal_dollars, in_cents, payment_micros_of
from domain.jobs.lifecycle import PauseReason
from gateway.backend import Backend, BackendOf
from gateway.billing.api.accounts import AccountAnswer, own_provider, pay, show_account
from gateway.billing.api.ledger import newest
from gateway.billing.api.statements import (
    StatementDay,
    StatementTotal,
    days_asked,
    days_of,
    jobs_of,
)
from gateway.billing.pages.spend_chart import spend_chart
from gateway.billing.runway import Runway
from gateway.http.access import Caller, CallerOf
from gateway.jobs.names import names_by_id
from gateway.jobs.schemas import ResumeGate
from gateway.jobs.service import job_detail, own_job
from gateway.schemas import JobId, Money, job_name
from gateway.web.addresses import Given, query_of
from gateway.web.rendering import fragment, page
from projections.billing_ledger import Only, Reason, balances_after, last_position
from projections.job_detail import jobs_paused_for
from projections.open_meters import burns

PAGE_POSTINGS = 50
MOST_WAITING = 3  # jobs whose gate is quoted anew for the banner

router = APIRouter(prefix="/billing")


class Kind(StrEnum):
    """What the ledger can be filtered by."""

    PAID_IN = "paid-in"
    MINUTES = "minutes"
    RETURNED = "returned"
    LEASES = "leases"
    ALL = "all"


LEASE_REASONS = (Reason.LEASE_RESERVED, Reason.LEASE_RELEASED)
MOVING_REASONS = tuple(reason for reason in Reason if reason not in LEASE_REASONS)
"""Those that change the balance; what leases hold and give back of it does not."""

KINDS: dict[Kind, tuple[str, tuple[Reason, ...]]] = {
    Kind.PAID_IN: ("Paid in", (Reason.TOPPED_UP, Reason.CREDIT_GRANTED)),
    Kind.MINUTES: ("Metered minutes", (Reason.MINUTE_METERED,)),
    Kind.RETURNED: ("Given back", (Reason.LOST_WORK_CREDITED,)),
    Kind.LEASES: ("Reserved and released", LEASE_REASONS),
    Kind.ALL: ("All, with reservations", tuple(Reason)),
}


class DaysRefused(NamedTuple):
    """Days that were asked for, and why no statement has them: the last thirty are shown."""

    first: date | None
    last: date | None
    why: str


@dataclass(frozen=True)
class Asked:
    """What of the money is asked for."""

    time_zone: str
    first: date
    last: date
    job: JobId | None
    kind: Kind | None
    before: int | None
    days_given: bool
    """Whether an address names the days; else they go on with the calendar."""
    refused: DaysRefused | None = None

    @property
    def only(self) -> Only:
        """The postings; reservations only if they are asked for."""
        reasons = KINDS[self.kind][1] if self.kind else MOVING_REASONS
        return Only(self.job, reasons, self.first, self.last, self.time_zone)

    def query(self, **change: object) -> str:
        """As the query of an address, with a change."""
        fields: dict[str, object] = {"kind": self.kind}
        if self.days_given:
            fields |= {"first": self.first, "last": self.last}
        fields |= {"job": job_name(self.job) if self.job else None, "before": self.before}
        return query_of(fields | change)

    def posted(self, now: MoneyNow) -> str:
        """What tells the postings and days that are shown from others."""
        return f"{now.position} {self.last}"

    @property
    def csv_query(self) -> str:
        """The same postings, for the API."""
        job = [("job", job_name(self.job))] if self.job else []
        reasons = [("reason", str(reason)) for reason in self.only.reasons or ()]
        days = [("first", str(self.first)), ("last", str(self.last))]
        return urlencode([*days, *job, *reasons])


def asked(
    caller: CallerOf,
    backend: BackendOf,
    job: Annotated[JobId | None, Given, Query()] = None,
    kind: Annotated[Kind | None, Given, Query()] = None,
    before: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
    first: Annotated[date | None, Given, Query()] = None,
    last: Annotated[date | None, Given, Query()] = None,
) -> Asked:
    """What an address asks for; without days, or with days that are none, the last thirty."""
    try:
        days, refused = days_asked(caller, backend, first, last), None
    except Invalid as problem:
        days = days_asked(caller, backend)
        refused = DaysRefused(first, last, problem.message)
    given = refused is None and bool(first or last)
    return Asked(*days, job, kind, before, days_given=given, refused=refused)


AskedOf = Annotated[Asked, Depends(asked)]


@dataclass(frozen=True)
class Waiting:
    """A job that is paused since the balance reached zero."""

    id: JobId
    title: str
    gate: ResumeGate | None


@dataclass(frozen=True)
class MoneyNow:
    """What changes by itself while the page is shown."""

    account: AccountAnswer
    runway: Runway
    waiting: tuple[JobId, ...]
    position: int
    """Of the newest posting."""

    @property
    def seen(self) -> str:
        """What tells this state from another."""
        return sha256(repr(self).encode()).hexdigest()[:16]


def money_now(backend: Backend, caller: Caller) -> MoneyNow:
    """The state of the caller's money."""
    account = show_account(caller, backend)
    with backend.pool.connection() as connection:
        waiting = jobs_paused_for(connection, caller.account_id, PauseReason.BALANCE)
        position = last_position(connection, caller.account_id)
        now = burns(connection, [caller.account_id])[caller.account_id]
    runway = Runway.of(account.balance.micros, now)
    return MoneyNow(account, runway, tuple(waiting), position)


@router.get("")
def show_billing(
    request: Request, caller: CallerOf, backend: BackendOf, asked: AskedOf
) -> Response:
    """The whole page."""
    now = money_now(backend, caller)
    shown = _figures(backend, caller, asked, now) | _postings(backend, caller, asked)
    return page(
        request,
        backend,
        caller,
        "billing/page.html",
        **shown,
        **_form(request, backend, *shown["waiting"]),
    )


@router.get("/now")
def show_now(
    caller: CallerOf,
    backend: BackendOf,
    asked: AskedOf,
    seen: Annotated[str, Query()] = "",
    posted: Annotated[str, Query()] = "",
) -> Response:
    """What has changed since the page, or this, was shown last; nothing if nothing has.

    While a job runs, the figures change all the time; the statement and the ledger only with a
    posting, or a new day.
    """
    now = money_now(backend, caller)
    moved = posted != asked.posted(now)
    if now.seen == seen and not moved:
        return Response(status_code=204)
    shown = _figures(backend, caller, asked, now)
    if moved:
        shown |= _postings(backend, caller, asked)
    return fragment("billing/now.html", account=now.account, moved=moved, **shown)


@router.post("/top-ups")
def top_up(
    request: Request,
    caller: CallerOf,
    backend: BackendOf,
    asked: AskedOf,
    command_key: Annotated[str, Form(min_length=1, max_length=100)],
    amount: Annotated[str, Form(max_length=40)] = "",
) -> Response:
    """Pay into the balance; the same form sent twice is one payment."""
    try:
        if not amount.strip():
            raise Invalid("say how much, in dollars", field="amount")
        pay(request, backend, caller, amount, command_key)
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


def _figures(backend: Backend, caller: Caller, asked: Asked, now: MoneyNow) -> dict[str, Any]:
    """What the page says of the balance."""
    return {"now": now, "waiting": list(_waiting(backend, caller, now)), "asked": asked}


def _postings(backend: Backend, caller: Caller, asked: Asked) -> dict[str, Any]:
    """What the page says of the postings. Raises NotFound for a job that is not the caller's."""
    if asked.job is not None:
        own_job(backend, caller, asked.job)
    span = (asked.time_zone, asked.first, asked.last)
    days = days_of(backend, caller, span, ids=False)
    jobs = jobs_of(backend, caller, span, ids=False)
    total = StatementTotal.of(days)
    ledger = newest(backend, caller, asked.only, asked.before, PAGE_POSTINGS)
    positions = [each.position for each in ledger.data]
    with backend.pool.connection() as connection:
        balances = balances_after(connection, caller.account_id, positions)
    ids = {job.job_id for job in jobs} | {each.job_id for each in ledger.data} | {asked.job}
    names = names_by_id(backend, [each for each in ids if each is not None])
    total_charged = Money.of(total.charges.micros - total.reversals.micros)
    shown = {position: Money.of(micros) for position, micros in balances.items()}
    return {
        "kinds": {kind: label for kind, (label, _) in KINDS.items()},
        "days": [day for day in days if _moved(day)],
        "total": total,
        "net": total_charged,
        "chart": spend_chart(days),
        "jobs": jobs,
        "ledger": ledger,
        "balances": shown,
        "names": names,
    }


def _moved(day: StatementDay) -> bool:
    """Whether anything came or went."""
    return any(each.micros for each in (day.top_ups, day.credits, day.charges, day.reversals))


def _form(request: Request, backend: Backend, *waiting: Waiting) -> dict[str, Any]:
    """The form to top up, with what a waiting job lacks; or how to pay where there is none.

    Each form has a key of its own, so that it is one payment however often it is sent.
    """
    provider = own_provider(request, backend)
    missing = max((_missing_micros(each.gate) for each in waiting), default=0)
    return {
        "provider": provider and provider.name,
        "instructions": backend.settings.payment_instructions,
        "command_key": uuid4().hex,
        "amount": _whole_cents(missing) if missing else "",
        "problem": None,
    }


def _missing_micros(gate: ResumeGate | None) -> int:
    return gate.missing.micros if gate is not None and gate.missing is not None else 0


def _whole_cents(micros: int) -> str:
    """An amount for a form, rounded up to a cent."""
    return decimal_dollars(in_cents(micros, Toward.UP))[:-4]


def _waiting(backend: Backend, caller: Caller, now: MoneyNow) -> Iterator[Waiting]:
    names = names_by_id(backend, now.waiting)
    for number, job_id in enumerate(now.waiting):
        gate = job_detail(backend, caller, job_id).resume if number < MOST_WAITING else None
        yield Waiting(job_id, names[job_id].title, gate)
