"""Requests for invoices, and their files."""

from __future__ import annotations

from datetime import UTC, date, datetime
from uuid import UUID

from domain.audit.tree_head import LogKey
from domain.billing.account import Account
from domain.core.errors import Invalid, NotFound, WrongState
from extensions.invoices.domain.invoice import Period
from extensions.invoices.domain.sealed_invoice import Result
from extensions.invoices.invoice_file import verify_file
from extensions.invoices.schemas import InvoiceForm, InvoiceResponse
from extensions.invoices.tables import (
    RequestedInvoice,
    invoice_with,
    invoices_of,
    invoices_requested_by,
    latest_invoices,
    request_invoice,
)
from gateway.backend import Backend
from gateway.http.access import Caller
from gateway.schemas import Money
from infrastructure.seals.archive import SealArchive, SealDamaged


def request(
    backend: Backend, caller: Caller, account_id: UUID, form: InvoiceForm
) -> InvoiceResponse:
    """Request an invoice of an account. The sealer issues it within seconds.

    Raise Invalid for wrong days, and QuotaExceeded or RateLimited at a limit.
    """
    now = backend.clock.now()
    first, last = _days(form)
    today = now.astimezone(UTC).date()
    newest = first if form.month is not None else last  # a month may end later
    if newest > today:
        raise Invalid(
            f"The day {newest} has not begun yet in UTC. Choose an earlier one.",
            field="last" if form.month is None else "month",
        )
    wanted = RequestedInvoice.of(account_id, first, last, now, caller.holder_id)
    opened = opened_at(backend, account_id)
    if wanted.until <= opened:
        raise Invalid(
            f"The account was opened at {opened:%Y-%m-%d %H:%M} UTC, after these days. "
            "Choose later ones.",
            field="last" if form.month is None else "month",
        )
    with backend.pool.connection() as connection:
        if invoice_with(connection, wanted.id) is None:
            used = invoices_requested_by(connection, caller.holder_id)
            backend.quotas.require_room("invoices", used)
        backend.quotas.rates.take("invoice_requests", caller.holder_id)
        shown = answer(request_invoice(connection, wanted))
    return shown if wanted.until < now else shown.model_copy(update={"is_complete": False})


def opened_at(backend: Backend, account_id: UUID) -> datetime:
    """Return the time when an account was opened. Raise Invalid if there is no such account."""
    account = backend.log.find(Account, account_id)
    if account is None:
        raise Invalid(f"Unknown account {account_id}. Enter another one.", field="account")
    return account.created_on


def list_invoices(backend: Backend, account_id: UUID) -> list[InvoiceResponse]:
    """Return the invoices of an account, the latest period first."""
    with backend.pool.connection() as connection:
        return [answer(each) for each in invoices_of(connection, account_id)]


def public_key(backend: Backend) -> LogKey | None:
    """Return the log's public key, as the sealer published it, or None."""
    try:
        return SealArchive(backend.artifacts).public_key()
    except SealDamaged:
        return None


def list_latest(backend: Backend, limit: int) -> list[InvoiceResponse]:
    """Return the latest invoices of all accounts."""
    with backend.pool.connection() as connection:
        return [answer(each) for each in latest_invoices(connection, limit)]


def invoice(backend: Backend, invoice_id: UUID, account_id: UUID | None) -> RequestedInvoice:
    """Return an invoice. Raise NotFound if it is not of the account. None allows all accounts."""
    with backend.pool.connection() as connection:
        found = invoice_with(connection, invoice_id)
    if found is None or account_id not in (None, found.account_id):
        raise NotFound(f"Unknown invoice {invoice_id}. See the list of invoices.")
    return found


def file_of(backend: Backend, found: RequestedInvoice, kind: str) -> bytes:
    """Return the file of an invoice, `pdf` or `json`.

    The file is verified first, because the table and the artifact store could have been changed.
    Raise WrongState if it is not ready, or is not the signed invoice of the account and period.
    """
    if not found.is_ready:
        reason = found.problem or "The sealer is still issuing it. Try again in a few seconds."
        raise WrongState(f"The invoice is not ready. {reason}")
    content = backend.artifacts.get(found.pdf_ref if kind == "pdf" else found.json_ref)
    key = public_key(backend)
    verified = verify_file(content, key) if key is not None else None
    invoice = verified.invoice if verified is not None and not verified.failures else None
    if invoice is None or (invoice.account_id, invoice.period) != (found.account_id, found.period):
        raise WrongState(
            "The stored file is not the invoice that the sealer signed. Ask your operator to run "
            "`ecolink audit verify`, and request the invoice again."
        )
    return content


def answer(found: RequestedInvoice) -> InvoiceResponse:
    """Return the schema of an invoice."""
    return InvoiceResponse(
        id=found.id,
        account_id=found.account_id,
        first=found.first_day,
        last=found.last_day,
        until=found.until,
        status="ready" if found.is_ready else "preparing" if found.is_waiting else "failed",
        is_waiting=found.is_waiting,
        is_complete=found.result is Result.PROVEN if found.is_ready else None,
        problem=found.problem,
        charges=None if found.charges_micros is None else Money.of(found.charges_micros),
        closing=None if found.closing_micros is None else Money.of(found.closing_micros),
        requested_at=found.requested_at,
        answered_at=found.answered_at,
    )


def _days(form: InvoiceForm) -> tuple[date, date]:
    if form.month is not None and form.first is None and form.last is None:
        try:
            period = Period.month(form.month)
        except ValueError as error:
            raise Invalid(str(error), field="month") from error
        return period.start.date(), period.last_day
    if form.month is not None or form.first is None or form.last is None:
        raise Invalid("Enter either a month, or both a first and a last day.", field="month")
    if form.last < form.first:
        raise Invalid(
            f"The last day {form.last} is before the first day {form.first}. Enter a later one.",
            field="last",
        )
    return form.first, form.last
