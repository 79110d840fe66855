"""Sealed invoices, made from the event log and its exported seals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domain.audit.sealed_event import StoredRow, sealed_events
from domain.audit.tree_head import LogKey
from extensions.invoices.account_rows import rows_of_account
from extensions.invoices.domain.invoice import Period, invoice_of, rows_for
from extensions.invoices.domain.sealed_invoice import ProvenRow, seal_invoice
from infrastructure.seals.archive import SealArchive
from infrastructure.seals.tree import NotProvable, NotSealedYet, SealedTree, not_sealed


@dataclass(frozen=True)
class Issuer:
    """The holder of the log's key, who issues invoices."""

    store: psycopg.Connection[Any]
    archive: SealArchive
    key: Ed25519PrivateKey
    origin: str

    @property
    def log_key(self) -> LogKey:
        """The public key of the log."""
        return LogKey(self.origin, self.key.public_key())

    def issue(self, account_id: UUID, period: Period, now: datetime) -> bytes:
        """Return the JSON file of an account's invoice. The period is over.

        Raise the errors of `issue_invoice`, or SealDamaged.
        """
        tree = SealedTree.newest(self.archive, self.log_key)
        if tree.head.sealed_at < period.end:
            tree = tree.signed_again(self.store, self.key, now)
        rows = rows_of_account(self.store, account_id)
        return issue_invoice(rows, tree, self.key, account_id, period)

    def as_pdf(self, content: bytes) -> bytes:
        """Return the PDF file of an invoice's JSON file."""
        from extensions.invoices.invoice_pdf import invoice_pdf  # takes half a second

        return invoice_pdf(content, self.key, self.log_key)


def issue_invoice(
    rows: Iterable[StoredRow],
    sealed: SealedTree,
    key: Ed25519PrivateKey,
    account_id: UUID,
    period: Period,
) -> bytes:
    """Return the JSON file of an account's invoice. `rows` are those of `rows_of_account`.

    Raise NotSealedYet if the head is older than the period's end, NotProvable if an event is not in
    the tree as it is stored, and Inconsistent if the events do not give an invoice.
    """
    if sealed.head.sealed_at < period.end:
        raise NotSealedYet(
            f"The newest head was sealed at {sealed.head.sealed_at:%Y-%m-%d %H:%M:%S} UTC, before "
            "the end of the period. Try again in 10 seconds."
        )
    rows = rows_for(account_id, period, rows)
    invoice = invoice_of(account_id, period, rows)
    last = max(row.notification_id for row in rows)
    if last > sealed.head.last_event:
        raise not_sealed(last, sealed.head)
    proven: list[ProvenRow] = []
    for row, event in zip(rows, sealed_events(rows), strict=True):
        leaf = sealed.find(event)
        if leaf is None or leaf.hash != event.leaf:
            raise NotProvable(
                f"Event {event.notification_id} is not as it was sealed, so no invoice can be "
                "proven. Run `ecolink audit verify`."
            )
        proven.append(ProvenRow(row, leaf.index, leaf.path))
    return seal_invoice(invoice, sealed.note, proven, sealed.head.origin, key)
