"""Invoices of the sample platform."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.invoices.domain.invoice import Period
from extensions.invoices.issuer import Issuer
from extensions.invoices.issuing import Invoicing
from extensions.invoices.tables import RequestedInvoice, request_invoice
from gateway.backend import Backend
from infrastructure.postgres.log_identity import log_identity
from infrastructure.postgres.store import Connection
from infrastructure.seals.archive import SealArchive, origin_of


def add(backend: Backend, connection: Connection, key: Ed25519PrivateKey, account_id: UUID) -> None:
    """Add an invoice of this month that is ready, and one of today that is being issued."""
    artifacts, now = backend.artifacts, datetime.now(UTC)
    issuer = Issuer(connection, SealArchive(artifacts), key, origin_of(log_identity(connection)))
    days = Period.month(f"{now:%Y-%m}")
    month = RequestedInvoice.of(account_id, days.start.date(), days.last_day, now, account_id)
    request_invoice(connection, month)
    Invoicing(issuer, artifacts).answer(now)
    today = RequestedInvoice.of(account_id, now.date(), now.date(), now, account_id)
    request_invoice(connection, today)
