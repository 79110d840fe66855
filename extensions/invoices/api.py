"""Routes of invoices under /api."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from fastapi import APIRouter
from fastapi.responses import Response

from extensions.invoices import service
from extensions.invoices.files import MEDIA_TYPES, file_response
from extensions.invoices.schemas import InvoiceForm, InvoiceResponse
from gateway.backend import BackendOf
from gateway.http.errors import refusals
from gateway.http.operations import Operation
from gateway.http.permissions import MayRead
from gateway.schemas import Listed

FILES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file.",
        "content": {
            each: {"schema": {"type": "string", "format": "binary"}}
            for each in MEDIA_TYPES.values()
        },
    }
}

router = APIRouter(prefix="/invoices", tags=["billing"], route_class=Operation)


@router.post("", status_code=202)
def request_invoice(form: InvoiceForm, caller: MayRead, backend: BackendOf) -> InvoiceResponse:
    """Request an invoice for a month or for any days, in UTC. It is ready within seconds.

    If the last day is not over, the invoice ends now, and a later request for the same days gives
    another invoice. An invoice that is not proven to be complete can be requested again.
    """
    return service.request(backend, caller, caller.account_id, form)


@router.get("")
def list_invoices(caller: MayRead, backend: BackendOf) -> Listed[InvoiceResponse]:
    """List the invoices of your account, the latest period first."""
    return Listed(data=service.list_invoices(backend, caller.account_id))


@router.get("/{invoice_id}", responses=refusals(404))
def show_invoice(invoice_id: UUID, caller: MayRead, backend: BackendOf) -> InvoiceResponse:
    """Show an invoice."""
    return service.answer(service.invoice(backend, invoice_id, caller.account_id))


@router.get(
    "/{invoice_id}/invoice.{kind}", response_class=Response, responses=FILES | refusals(404, 409)
)
def download_invoice(
    invoice_id: UUID, kind: Literal["pdf", "json"], caller: MayRead, backend: BackendOf
) -> Response:
    """Download an invoice as PDF or JSON. Both files are signed, and contain the proofs.

    `ecolink audit invoice verify` verifies them offline. Returns 409 if the invoice is not ready.
    """
    found = service.invoice(backend, invoice_id, caller.account_id)
    return file_response(backend, found, kind)
