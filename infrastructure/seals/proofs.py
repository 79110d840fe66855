"""Proofs of events and heads, made from the exported seals without the whole tree in memory."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from domain.audit.consistency_proof import ConsistencyProof
from domain.audit.event_proof import EventProof
from domain.audit.merkle import prove_consistency, root_of
from domain.audit.sealed_event import StoredRow, sealed_events
from domain.audit.tree_head import LogKey, TreeHead
from infrastructure.seals.archive import SealArchive, SealDamaged
from infrastructure.seals.tree import Leaf, SealedTree


class SealStatus(StrEnum):
    """The result of looking up an event in the seals."""

    PROVEN = "proven"
    CHANGED = "changed"
    """The seals have another event with this ID."""
    INSERTED = "inserted"
    """The seals have later events, but not this one."""
    NOT_SEALED = "not_sealed"
    SEALS_DAMAGED = "seals_damaged"


@dataclass(frozen=True)
class Evidence:
    """The result of comparing an event with its seals. `problem` describes a difference."""

    status: SealStatus
    head: TreeHead | None = None
    proof: EventProof | None = None
    problem: str | None = None


def evidence_of(row: StoredRow, archive: SealArchive) -> Evidence:
    """Prove an event with the newest head, as the key that the archive has signed it."""
    try:
        return _evidence(row, archive)
    except SealDamaged as error:
        return Evidence(SealStatus.SEALS_DAMAGED, problem=str(error))


def _evidence(row: StoredRow, archive: SealArchive) -> Evidence:
    key = archive.public_key()
    note = archive.last_note(key) if key else None
    if key is None or note is None:
        return Evidence(SealStatus.NOT_SEALED)
    head = key.verify(note)
    if row.notification_id > head.last_event:
        return Evidence(SealStatus.NOT_SEALED, head)
    (event,) = sealed_events([row])
    leaf = SealedTree.signed(archive, note, key).find(event)
    if leaf is None:
        text = f"Event {row.notification_id} is not in the seals, but they have later events."
        return Evidence(SealStatus.INSERTED, head, problem=text)
    proof = _proof(row, leaf, note, key)
    failures = proof.failures(key)
    if not failures:
        return Evidence(SealStatus.PROVEN, head, proof)
    is_changed = proof.row_hash != proof.leaf_hash
    status = SealStatus.CHANGED if is_changed else SealStatus.SEALS_DAMAGED
    return Evidence(status, head, proof, " ".join(failures))


def _proof(row: StoredRow, leaf: Leaf, note: str, key: LogKey) -> EventProof:
    return EventProof(
        id=row.notification_id,
        originator_id=UUID(bytes=bytes(row.originator_id)),
        originator_version=row.originator_version,
        topic=row.topic,
        state=bytes(row.state).decode(errors="replace"),  # sealed events are UTF-8
        leaf_hash=leaf.hash.hex(),
        leaf_index=leaf.index,
        inclusion_proof=tuple(node.hex() for node in leaf.path),
        head=note,
        public_key=str(key),
    )


def consistency_of(
    note: str, kept: TreeHead, archive: SealArchive, key: LogKey
) -> ConsistencyProof:
    """Return a signed head with the unverified proof for an earlier one, or raise ValueError."""
    head = key.verify(note)
    if kept.size > head.size:
        raise ValueError(
            f"The kept head has {kept.size:,} events, but the newest one only {head.size:,}. The "
            "archive lost heads. Run `ecolink audit verify` with the kept head."
        )
    roots, size = archive.chunk_roots(head), archive.chunk_leaves

    def root_between(start: int, end: int) -> bytes:
        number, first = divmod(start, size)
        if first == 0 and (end % size == 0 or end == head.size):
            return root_of(roots[number : -(-end // size)])
        leaves = archive.chunk(number, head)[first : end - number * size]
        return root_of([leaf for _, leaf in leaves])

    return ConsistencyProof(
        earlier_size=kept.size,
        consistency_proof=tuple(
            node.hex() for node in prove_consistency(head.size, kept.size, root_between)
        ),
        head=note,
        public_key=str(key),
    )
