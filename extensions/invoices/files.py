"""Files of invoices."""

from __future__ import annotations

from fastapi.responses import Response

from extensions.invoices.service import file_of
from extensions.invoices.tables import RequestedInvoice
from gateway.backend import Backend

MEDIA_TYPES = {"pdf": "application/pdf", "json": "application/json"}


def file_response(backend: Backend, found: RequestedInvoice, kind: str) -> Response:
    """Return the response with a file of an invoice. Raise WrongState if it is not ready."""
    name = f"ecolink-invoice-{found.first_day}-{found.last_day}.{kind}"
    return Response(
        file_of(backend, found, kind),
        headers={
            "cache-control": "private, no-store",
            "content-disposition": f'attachment; filename="{name}"',
            "x-content-type-options": "nosniff",
        },
        media_type=MEDIA_TYPES[kind],
    )
