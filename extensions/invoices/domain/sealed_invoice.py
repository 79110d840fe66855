"""An invoice with the events that it rests on, their proofs, and the signature of the log's key.

The file is JSON in a canonical form: sorted keys, no white space, UTF-8. The signature covers the
document without the field `signature`, followed by a line feed, as the text of a signed note
(c2sp.org/signed-note). A file in any other form is refused, so that no byte can change unnoticed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Literal, NamedTuple
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Base64Bytes, Field, ValidationError

from domain.audit.merkle import includes
from domain.audit.sealed_event import StoredRow, sealed_events
from domain.audit.tree_head import InvalidHead, LogKey, TreeHead, signature_line
from domain.core.value import Value
from extensions.invoices.domain.invoice import Invoice, Period, invoice_of, is_followed
from extensions.invoices.domain.money_events import Inconsistent

LISTED_FAILURES = 20
"""Failures that are listed. Further ones are counted."""

Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class ProvenRow(NamedTuple):
    """A stored event, the index of its leaf in the tree, and its inclusion proof."""

    row: StoredRow
    leaf_index: int
    proof: Sequence[bytes]


class ProvenEvent(Value):
    """A stored event with its proof. `proof` has indexes of hashes in the document's `nodes`."""

    id: Int64
    originator_id: UUID
    originator_version: Int64
    topic: str
    state: str
    leaf_index: int
    proof: tuple[int, ...]

    @property
    def row(self) -> StoredRow:
        """The row of the event store."""
        return StoredRow(
            self.id,
            self.originator_id.bytes,
            self.originator_version,
            self.topic,
            self.state.encode(),
        )


class SealedInvoice(Value):
    """The document in an invoice file."""

    format: Literal["ecolink-invoice/1"] = "ecolink-invoice/1"
    invoice: Invoice
    head: str
    """Signed head of the tree that contains the events."""
    nodes: tuple[Base64Bytes, ...]
    """Hashes of the proofs. Many events share most of them."""
    events: tuple[ProvenEvent, ...]
    signature: str = ""

    @property
    def content(self) -> bytes:
        """The bytes of the file."""
        return _canonical(self.model_dump(mode="json"))

    @property
    def signed_text(self) -> str:
        """The text that the signature covers."""
        return _canonical(self.model_dump(mode="json", exclude={"signature"})).decode() + "\n"


class Result(StrEnum):
    """Result of verifying an invoice."""

    PROVEN = "proven"
    COMPLETENESS_NOT_PROVEN = "completeness_not_proven"
    """The file's events are proven, but the account's last ones in the period may be missing."""
    FAILED = "failed"


@dataclass
class Verification:
    """The findings about an invoice. Its figures are proven only if the result is PROVEN."""

    invoice: Invoice | None = None
    head: TreeHead | None = None
    events: int = 0
    is_followed: bool = False
    """True if the account has a later event, which proves that none of the period is missing."""
    failures: list[str] = field(default_factory=list[str])

    @property
    def result(self) -> Result:
        """Return FAILED if there are failures. A proven invoice needs an event after its period."""
        if self.failures:
            return Result.FAILED
        return Result.PROVEN if self.is_followed else Result.COMPLETENESS_NOT_PROVEN


def seal_invoice(
    invoice: Invoice, head: str, rows: Sequence[ProvenRow], origin: str, key: Ed25519PrivateKey
) -> bytes:
    """Return the bytes of an invoice file. Raise Inconsistent if an event is not UTF-8."""
    places: dict[bytes, int] = {}
    events = tuple(
        ProvenEvent(
            id=row.notification_id,
            originator_id=UUID(bytes=row.originator_id),
            originator_version=row.originator_version,
            topic=row.topic,
            state=_text_of(row),
            leaf_index=index,
            proof=tuple(places.setdefault(node, len(places)) for node in proof),
        )
        for row, index, proof in rows
    )
    nodes = tuple(base64.b64encode(node) for node in places)
    document = SealedInvoice(invoice=invoice, head=head, nodes=nodes, events=events)
    signature = signature_line(origin, key, document.signed_text)
    return document.model_copy(update={"signature": signature}).content


def verify_invoice(content: bytes, key: LogKey) -> Verification:
    """Verify an invoice file with nothing but the log's public key.

    Check the signature, the head and its time, the proof of each event, and the invoice's figures,
    which are calculated again from the events.
    """
    try:
        document = SealedInvoice.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        reason = f"{place}: {problem['msg']}" if place else problem["msg"]
        return Verification(failures=[f"The data is not an invoice. {reason}."])
    verified = Verification(document.invoice, events=len(document.events))
    failures = verified.failures
    if content != document.content:
        failures.append("The data is not in canonical form: a byte was changed.")
    if not key.has_signed(document.signed_text, document.signature):
        failures.append(
            f"The signature of the data is not of the key of {key.origin}: the data was changed, "
            "or another key signed it."
        )
    try:
        verified.head = key.verify(document.head)
    except InvalidHead as error:
        failures.append(f"The tree head was changed: {error}")
    else:
        failures += _too_old(verified.head, document.invoice.period)
        failures += _listed(list(_unproven(document, verified.head)))
    rows = [event.row for event in document.events]
    try:
        failures += _differences(document.invoice, rows)
        verified.is_followed = is_followed(
            document.invoice.account_id, document.invoice.period, rows
        )
    except Inconsistent as error:
        failures.append(f"The invoice cannot be calculated from its events: {error}")
    return verified


def _too_old(head: TreeHead, period: Period) -> Iterator[str]:
    """Yield a failure if a head cannot contain all events of a period."""
    if head.sealed_at < period.end:
        yield (
            f"The head was sealed at {head.sealed_at:%Y-%m-%d %H:%M:%S} UTC, before the end of the "
            f"period at {period.end:%Y-%m-%d %H:%M:%S} UTC, so later events of the period are "
            "missing from it. Ask for an invoice with a newer head."
        )


def _unproven(document: SealedInvoice, head: TreeHead) -> Iterator[str]:
    """Yield a failure for each event that its proof does not show to be in the tree."""
    nodes = document.nodes
    for event in document.events:
        ((_, leaf),) = sealed_events([event.row])
        known = all(0 <= place < len(nodes) for place in event.proof)
        proof = [nodes[place] for place in event.proof] if known else []
        if not includes(head.root, head.size, event.leaf_index, leaf, proof):
            yield (
                f"Event {event.id} ({event.topic}) is not proven to be in the signed log: the "
                "event or its proof was changed."
            )


def _differences(invoice: Invoice, rows: Sequence[StoredRow]) -> Iterator[str]:
    """Yield a failure for each figure of the invoice that its events do not give."""
    calculated = invoice_of(invoice.account_id, invoice.period, rows)
    for name in Invoice.model_fields:
        shown, given = getattr(invoice, name), getattr(calculated, name)
        if shown == given:
            continue
        if isinstance(shown, tuple):
            yield f"{name} of the invoice differ from those that its events give."
        else:
            yield f"{name} of the invoice is {shown}, but its events give {given}."


def _listed(failures: list[str]) -> list[str]:
    unlisted = len(failures) - LISTED_FAILURES
    if unlisted <= 0:
        return failures
    return [*failures[:LISTED_FAILURES], f"{unlisted} more events are not proven."]


def _text_of(row: StoredRow) -> str:
    try:
        return row.state.decode()
    except UnicodeDecodeError as error:
        raise Inconsistent(f"Event {row.notification_id} is not UTF-8 text.") from error


def _canonical(document: object) -> bytes:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()
