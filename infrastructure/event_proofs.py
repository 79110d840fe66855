"""Proofs of events and heads, made from the exported seals without the whole tree in memory."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from domain.audit.consistency_proof import ConsistencyProof
from domain.audit.event_proof import EventProof
from domain.audit.merkle import Tree, prove_consistency, root_of
from domain.audit.sealed_event import StoredRow, leaves_in, sealed_events
from domain.audit.tree_head import LogKey, TreeHead
from infrastructure.seal_archive import SealArchive, SealDamaged


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


@dataclass(frozen=True)
class _Leaf:
    """A leaf with its inclusion proof."""

    index: int
    hash: bytes
    path: list[bytes]


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
    leaf = _find(row, head, archive)
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


def _proof(row: StoredRow, leaf: _Leaf, note: str, key: LogKey) -> EventProof:
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


def _find(row: StoredRow, head: TreeHead, archive: SealArchive) -> _Leaf | None:
    """Return the leaf of an event as it is now, otherwise the leaf with its ID, or None.

    A chunk has a power of two of leaves, so its tree is a subtree. The path in the chunk and the
    path over the roots of all chunks are the inclusion proof. A binary search by ID finds the chunk
    of an event. But no root covers the IDs beside the leaves. So if the chunk does not have the
    event's hash, all chunks are searched for it. Raise SealDamaged.
    """
    roots = archive.chunk_roots(head)
    if root_of(roots) != head.root:
        raise SealDamaged(f"The leaves of {head.size} events do not have the root of their head.")

    def last_id(number: int) -> int:
        return archive.chunk(number, head)[-1].notification_id

    def leaf_at(number: int, index: int, tree: Tree) -> _Leaf:
        path = [*tree.prove_inclusion(index), *Tree(roots).prove_inclusion(number)]
        return _Leaf(number * archive.chunk_leaves + index, tree.leaves[index], path)

    ((id, wanted),) = sealed_events([row])
    number = bisect_left(range(len(roots) - 1), id, key=last_id)
    events = archive.chunk(number, head)
    near = _verified(number, [leaf for _, leaf in events], roots, archive)
    if wanted in near.leaves:
        return leaf_at(number, near.leaves.index(wanted), near)
    for other, content in enumerate(archive.contents(0, head.size)):
        tree = _verified(other, leaves_in(content), roots, archive)
        if wanted in tree.leaves:
            return leaf_at(other, tree.leaves.index(wanted), tree)
    ids = [each.notification_id for each in events]
    return leaf_at(number, ids.index(id), near) if id in ids else None


def _verified(
    number: int, leaves: Sequence[bytes], roots: Sequence[bytes], archive: SealArchive
) -> Tree:
    """Return the tree of a chunk. Raise SealDamaged if it does not have its signed root."""
    tree = Tree(leaves)
    if tree.root != roots[number]:
        first = number * archive.chunk_leaves
        raise SealDamaged(f"The leaves from index {first} on do not have the root that was signed.")
    return tree


def consistency_of(
    note: str, kept: TreeHead, archive: SealArchive, key: LogKey
) -> ConsistencyProof:
    """Return a signed head with the proof for an earlier one.

    The proof is not verified. Raise ValueError if the kept head is later, and SealDamaged.
    """
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
