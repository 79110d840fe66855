"""Sealed invoices, made from the event log and its exported seals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain
from typing import Any, Self
from uuid import UUID

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domain.audit.invoice import Period, invoice_of, rows_for
from domain.audit.merkle import Tree
from domain.audit.sealed_event import SealedEvent, StoredRow, sealed_events
from domain.audit.sealed_invoice import ProvenRow, seal_invoice
from domain.audit.tree_head import LogKey, TreeHead
from infrastructure.account_rows import rows_of_account
from infrastructure.event_rows import read_rows
from infrastructure.seal_archive import SealArchive, SealDamaged


class NotProvable(Exception):
    """An invoice cannot be proven: events have no head yet, or changed since they were sealed."""


class NotSealedYet(NotProvable):
    """An invoice cannot be proven before the sealer exports a newer head."""


@dataclass(frozen=True)
class SealedTree:
    """The tree of the newest exported head."""

    note: str
    """The signed head."""
    head: TreeHead
    tree: Tree
    indexes: Mapping[int, int]
    """Index of each event's leaf, by notification id."""

    @classmethod
    def newest(cls, archive: SealArchive, key: LogKey) -> Self:
        """Read the tree. Raise SealDamaged, or NotSealedYet if nothing is sealed."""
        note = archive.last_note(key)
        if note is None:
            raise NotSealedYet("Nothing is sealed yet. Run `ecolink up` and wait 10 seconds.")
        head = key.verify(note)
        sealed = cls.of(note, head, chain.from_iterable(archive.leaves(0, head.size)))
        if sealed.tree.root != head.root:
            raise SealDamaged(f"The leaves of {head.size} events do not have their head's root.")
        return sealed

    @classmethod
    def of(cls, note: str, head: TreeHead, events: Iterable[SealedEvent]) -> Self:
        """Return the tree of some leaves."""
        leaves = list(events)
        indexes = {id: index for index, (id, _) in enumerate(leaves)}
        return cls(note, head, Tree([leaf for _, leaf in leaves]), indexes)

    def signed_again(
        self, store: psycopg.Connection[Any], key: Ed25519PrivateKey, now: datetime
    ) -> Self:
        """Return the same tree with a head of this time, for a log that has not grown.

        The sealer exports a head only for new events. Raise NotSealedYet if there are such events.
        """
        if newer := read_rows(store, self.head.last_event, 1):
            raise _not_sealed(newer[0].notification_id, self.head)
        head = replace(self.head, sealed_at=now)
        return replace(self, note=head.sign(key), head=head)


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
        from infrastructure.invoice_pdf import invoice_pdf  # only here: it takes half a second

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
        raise _not_sealed(last, sealed.head)
    proven: list[ProvenRow] = []
    for row, (id, leaf) in zip(rows, sealed_events(rows), strict=True):
        index = sealed.indexes.get(id)
        if index is None or sealed.tree.leaves[index] != leaf:
            raise NotProvable(
                f"Event {id} is not as it was sealed, so no invoice can be proven. Run "
                "`ecolink audit verify`."
            )
        proven.append(ProvenRow(row, index, sealed.tree.prove_inclusion(index)))
    return seal_invoice(invoice, sealed.note, proven, sealed.head.origin, key)


def _not_sealed(event: int, head: TreeHead) -> NotSealedYet:
    return NotSealedYet(
        f"Event {event} has no signed head yet; the newest head covers events up to "
        f"{head.last_event}. While EcoLink runs, a head follows within 10 seconds. Try again then."
    )
