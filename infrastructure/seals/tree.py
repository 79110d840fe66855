"""The tree of a signed head, of which only the needed leaves are read."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Self

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domain.audit.merkle import Tree
from domain.audit.sealed_event import SealedEvent
from domain.audit.tree_head import LogKey, TreeHead
from infrastructure.postgres.event_rows import read_rows
from infrastructure.seals.archive import SealArchive, SealDamaged


class NotProvable(Exception):
    """An event cannot be proven: it has no head yet, or changed since it was sealed."""


class NotSealedYet(NotProvable):
    """An event cannot be proven before the sealer exports a newer head."""


@dataclass(frozen=True)
class Leaf:
    """A leaf with its inclusion proof."""

    index: int
    hash: bytes
    path: Sequence[bytes]


@dataclass(frozen=True)
class _Chunk:
    events: Sequence[SealedEvent]
    tree: Tree


@dataclass(frozen=True)
class SealedTree:
    """The tree of a signed head.

    A chunk has a power of two of leaves, so its tree is a subtree. The path in the chunk and the
    path over the roots of all chunks are the inclusion proof.
    """

    note: str
    """The signed head."""
    head: TreeHead
    roots: Tree
    """The tree over the roots of all chunks, which leads to the head's root."""
    chunk_leaves: int
    read: Callable[[int], Sequence[SealedEvent]] = field(repr=False)
    """Reads the leaves of a chunk. It may raise SealDamaged."""
    _last_ids: dict[int, int] = field(default_factory=dict, repr=False)
    _chunks: dict[int, _Chunk] = field(default_factory=dict, repr=False)

    @classmethod
    def newest(cls, archive: SealArchive, key: LogKey) -> Self:
        """Open the tree of the newest head. Raise SealDamaged, or NotSealedYet without a head."""
        note = archive.last_note(key)
        if note is None:
            raise NotSealedYet("Nothing is sealed yet. Run `ecolink up` and wait 10 seconds.")
        return cls.signed(archive, note, key)

    @classmethod
    def signed(cls, archive: SealArchive, note: str, key: LogKey) -> Self:
        """Open the tree of a signed head in the archive. Raise SealDamaged."""
        head = key.verify(note)
        roots = Tree(archive.chunk_roots(head))
        if roots.root != head.root:
            raise SealDamaged(
                f"The leaves of {head.size} events do not have the root of their head."
            )
        return cls(note, head, roots, archive.chunk_leaves, lambda n: archive.chunk(n, head))

    @classmethod
    def of(cls, note: str, head: TreeHead, events: Sequence[SealedEvent]) -> Self:
        """Return a tree in memory, as one chunk."""
        root = Tree([leaf for _, leaf in events]).root
        return cls(note, head, Tree([root]), len(events), lambda _: events)

    def find(self, event: SealedEvent) -> Leaf | None:
        """Return the leaf of an event as it is now, otherwise the leaf with its ID, or None.

        A binary search by ID finds the chunk of an event. But no root covers the IDs beside the
        leaves. So if the chunk does not have the event's hash, all chunks are searched for it.
        Raise SealDamaged.
        """
        count = len(self.roots.leaves)
        id, wanted = event
        near = bisect_left(range(count - 1), id, key=self._last_id)
        for number in (near, *(each for each in range(count) if each != near)):
            leaves = self._chunk(number).tree.leaves
            if wanted in leaves:
                return self._leaf(number, leaves.index(wanted))
        ids = [each.notification_id for each in self._chunk(near).events]
        return self._leaf(near, ids.index(id)) if id in ids else None

    def _leaf(self, number: int, index: int) -> Leaf:
        tree = self._chunk(number).tree
        path = [*tree.prove_inclusion(index), *self.roots.prove_inclusion(number)]
        return Leaf(number * self.chunk_leaves + index, tree.leaves[index], path)

    def signed_again(
        self, store: psycopg.Connection[Any], key: Ed25519PrivateKey, now: datetime
    ) -> Self:
        """Return the tree with a head of this time, or raise NotSealedYet if the log grew."""
        if newer := read_rows(store, self.head.last_event, 1):
            raise not_sealed(newer[0].notification_id, self.head)
        head = replace(self.head, sealed_at=now)
        return replace(self, note=head.sign(key), head=head)

    def _last_id(self, number: int) -> int:
        if number not in self._last_ids:
            self._last_ids[number] = self._chunk(number).events[-1].notification_id
        return self._last_ids[number]

    def _chunk(self, number: int) -> _Chunk:
        """Return a chunk. Only the last one stays in memory."""
        if number not in self._chunks:
            events = self.read(number)
            tree = Tree([leaf for _, leaf in events])
            if tree.root != self.roots.leaves[number]:
                first = number * self.chunk_leaves
                raise SealDamaged(
                    f"The leaves from index {first} on do not have the root that was signed."
                )
            self._chunks.clear()
            self._chunks[number] = _Chunk(events, tree)
        return self._chunks[number]


def not_sealed(event: int, head: TreeHead) -> NotSealedYet:
    """Return the error for an event that is newer than a head."""
    return NotSealedYet(
        f"Event {event} has no signed head yet; the newest head covers events up to "
        f"{head.last_event}. While EcoLink runs, a head follows within 10 seconds. Try again then."
    )
