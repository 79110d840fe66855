"""Invoices of an account on its billing pages, and of all accounts on the audit pages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response

from domain.core.errors import Invalid
from extensions.invoices import service
from extensions.invoices.files import file_response
from extensions.invoices.schemas import InvoiceForm
from gateway.backend import Backend, BackendOf
from gateway.http.access import Caller
from gateway.http.permissions import MayRead, MayReadAll
from gateway.web.rendering import fragment, is_htmx, page
from infrastructure.accounts.profiles import account_id_of, account_names

LISTED_INVOICES = 100
OFFERED_MONTHS = 24

OWN, ALL = "/billing/invoices", "/audit/invoices"

router = APIRouter()

Text = Annotated[str, Form(max_length=200)]


@dataclass(frozen=True)
class Entered:
    """The fields of the form as entered, and their problem."""

    account: Text = ""
    month: Annotated[str, Form(max_length=20)] = ""
    first: Text = ""
    last: Text = ""

    @property
    def form(self) -> InvoiceForm:
        """Raise Invalid if a day is not a date."""
        return InvoiceForm(
            month=self.month.strip() or None,
            first=_day("first", self.first),
            last=_day("last", self.last),
        )


EnteredOf = Annotated[Entered, Depends()]


@router.get(OWN)
def show_own(request: Request, caller: MayRead, backend: BackendOf) -> Response:
    """Show the invoices of an account, and a form that requests one."""
    if is_htmx(request):
        return fragment("invoices/table.html", **_own_list(backend, caller))
    return _own(request, backend, caller, Entered(), None)


@router.post(OWN)
def request_own(
    request: Request, caller: MayRead, backend: BackendOf, entered: EnteredOf
) -> Response:
    """Request an invoice. An invalid field is marked, and nothing is requested."""
    try:
        service.request(backend, caller, caller.account_id, entered.form)
    except Invalid as problem:
        return _own(request, backend, caller, entered, problem)
    return RedirectResponse(OWN, HTTPStatus.SEE_OTHER)


@router.get(ALL)
def show_all(request: Request, caller: MayReadAll, backend: BackendOf) -> Response:
    """Show the latest invoices of all accounts, and a form that requests one."""
    if is_htmx(request):
        return fragment("invoices/table.html", **_all_list(backend))
    return _all(request, backend, caller, Entered(), None)


@router.post(ALL)
def request_any(
    request: Request, caller: MayReadAll, backend: BackendOf, entered: EnteredOf
) -> Response:
    """Request an invoice of any account. An invalid field is marked, and nothing is requested."""
    try:
        account_id = _account(backend, entered.account.strip())
        service.request(backend, caller, account_id, entered.form)
    except Invalid as problem:
        return _all(request, backend, caller, entered, problem)
    return RedirectResponse(ALL, HTTPStatus.SEE_OTHER)


@router.get(ALL + "/{invoice_id}/invoice.{kind}")
def download_any(
    invoice_id: UUID, kind: Literal["pdf", "json"], caller: MayReadAll, backend: BackendOf
) -> Response:
    """Download an invoice of any account."""
    return file_response(backend, service.invoice(backend, invoice_id, None), kind)


def _own_list(backend: Backend, caller: Caller) -> dict[str, Any]:
    invoices = service.list_invoices(backend, caller.account_id)
    return {"place": OWN, "files": "/api/invoices", "invoices": invoices, "names": None}


def _all_list(backend: Backend) -> dict[str, Any]:
    with backend.pool.connection() as connection:
        names = account_names(connection)
    invoices = service.list_latest(backend, LISTED_INVOICES)
    return {"place": ALL, "files": ALL, "invoices": invoices, "names": names}


def _own(
    request: Request, backend: Backend, caller: Caller, entered: Entered, problem: Invalid | None
) -> Response:
    shown = _own_list(backend, caller)
    shown["months"] = list(_months(backend, service.opened_at(backend, caller.account_id)))
    shown["public_key"] = service.public_key(backend)
    return page(
        request, backend, caller, "invoices/page.html", entered=entered, problem=problem, **shown
    )


def _all(
    request: Request, backend: Backend, caller: Caller, entered: Entered, problem: Invalid | None
) -> Response:
    shown = _all_list(backend)
    shown["months"] = list(_months(backend, datetime.min.replace(tzinfo=UTC)))
    shown["public_key"] = service.public_key(backend)
    return page(
        request, backend, caller, "invoices/page.html", entered=entered, problem=problem, **shown
    )


def _months(backend: Backend, since: datetime) -> Iterator[date]:
    """Yield the first days of at most `OFFERED_MONTHS` months, newest first."""
    month = backend.clock.now().astimezone(UTC).date().replace(day=1)
    for _ in range(OFFERED_MONTHS):
        yield month
        if month <= since.astimezone(UTC).date():
            return
        month = (month - timedelta(days=1)).replace(day=1)


def _day(field: str, text: str) -> date | None:
    try:
        return date.fromisoformat(text.strip()) if text.strip() else None
    except ValueError:
        raise Invalid(
            f"{text!r} is not a day. Enter one such as 2026-11-24.", field=field
        ) from None


def _account(backend: Backend, text: str) -> UUID:
    with backend.pool.connection() as connection:
        account_id = account_id_of(connection, text)
    if account_id is None:
        raise Invalid(f"Unknown account {text!r}. Enter its ID or its name.", field="account")
    return account_id
