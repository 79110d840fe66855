"""Merkle trees as in RFC 9162, section 2.1: roots, inclusion proofs and consistency proofs.

A tree is given by its leaf hashes, in order. All hashes are SHA-256, 32 bytes. A proof needs no
trust in the tree that made it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from hashlib import sha256

LEAF, NODE = b"\x00", b"\x01"
"""Prefixes that keep a leaf from passing as a node (RFC 9162, section 2.1.1)."""

EMPTY_ROOT = sha256(b"").digest()


class Frontier:
    """The roots of the largest complete subtrees of a growing tree, from left to right.

    They suffice to append leaves and to calculate the root. There is one for each bit of the size.
    """

    def __init__(self) -> None:
        self.size = 0
        self._roots: list[bytes] = []

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Append leaf hashes."""
        roots, size, digest = self._roots, self.size, sha256
        for leaf in leaves:
            size += 1
            complete = size & -size  # a subtree of this size is complete with this leaf
            while complete > 1:
                leaf = digest(NODE + roots.pop() + leaf).digest()
                complete >>= 1
            roots.append(leaf)
        self.size = size

    @property
    def root(self) -> bytes:
        """Return the root hash of the tree."""
        if not self._roots:
            return EMPTY_ROOT
        *rest, root = self._roots
        for left in reversed(rest):
            root = _node(left, root)
        return root


def leaf_hash(content: bytes) -> bytes:
    """Return the hash of a leaf."""
    return sha256(LEAF + content).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Return the root hash of a tree."""
    if not leaves:
        return EMPTY_ROOT
    level = leaves
    while len(level) > 1:
        level = _parents(level)
    return level[0]


class Tree:
    """All hashes of a tree, in memory, so that each inclusion proof takes one step per level."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self._levels = [leaves]
        while len(self._levels[-1]) > 1:
            self._levels.append(_parents(self._levels[-1]))

    @property
    def leaves(self) -> Sequence[bytes]:
        """The leaf hashes, in order."""
        return self._levels[0]

    @property
    def root(self) -> bytes:
        """Return the root hash."""
        return self._levels[-1][0] if self.leaves else EMPTY_ROOT

    def prove_inclusion(self, index: int) -> list[bytes]:
        """Return the proof that the tree contains the leaf at an index, from the leaf to the root.

        Raise IndexError if there is no such leaf. Source: RFC 9162, section 2.1.3.1.
        """
        if not 0 <= index < len(self.leaves):
            raise IndexError(f"The tree has {len(self.leaves)} leaves and no leaf {index}.")
        proof: list[bytes] = []
        for level in self._levels[:-1]:
            if index ^ 1 < len(level):
                proof.append(level[index ^ 1])
            index >>= 1
        return proof


def prove_inclusion(leaves: Sequence[bytes], indexes: Collection[int]) -> list[list[bytes]]:
    """Return the proofs that the tree contains the leaves at `indexes`, in their order."""
    tree = Tree(leaves)
    return [tree.prove_inclusion(index) for index in indexes]


def includes(root: bytes, size: int, index: int, leaf: bytes, proof: Sequence[bytes]) -> bool:
    """Return True if a proof shows that the leaf at `index` belongs to a tree of `size` leaves.

    Source: RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size:
        return False
    position, last, current = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if position & 1 or position == last:
            current = _node(sibling, current)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            current = _node(current, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and current == root


def prove_consistency(
    size: int, earlier: int, root_between: Callable[[int, int], bytes]
) -> list[bytes]:
    """Return the hashes that prove that the tree only appended leaves since it had `earlier`.

    `root_between` returns the root of a subtree, from the index of its first leaf to that after its
    last one. Raise IndexError unless 0 < `earlier` <= `size`. Source: RFC 9162, section 2.1.4.1.
    """
    if not 0 < earlier <= size:
        raise IndexError(f"The tree has {size} leaves and never had {earlier}.")
    path: list[bytes] = []
    start, end, whole = 0, size, True
    while earlier - start != end - start:
        middle = start + _split(end - start)
        if earlier <= middle:
            path.append(root_between(middle, end))
            end = middle
        else:
            path.append(root_between(start, middle))
            start, whole = middle, False
    if not whole:
        path.append(root_between(start, end))
    return path[::-1]


def is_consistent(
    earlier_root: bytes, earlier: int, root: bytes, size: int, proof: Sequence[bytes]
) -> bool:
    """Return True if a proof shows that a tree of `size` leaves begins with one of `earlier`.

    Source: RFC 9162, section 2.1.4.2.
    """
    if not 0 < earlier <= size:
        return False
    if earlier == size:
        return not proof and earlier_root == root
    hashes = list(proof)
    if earlier & (earlier - 1) == 0:  # the earlier tree is a subtree of the later one
        hashes.insert(0, earlier_root)
    if not hashes:
        return False
    position, last = earlier - 1, size - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            old, new = _node(sibling, old), _node(sibling, new)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            new = _node(new, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and old == earlier_root and new == root


def _parents(level: Sequence[bytes]) -> list[bytes]:
    """Return the next level towards the root. An odd last node is its own parent.

    This is the tree of RFC 9162: its left subtrees are complete, and only the right edge is not.
    """
    digest = sha256
    pairs = zip(level[::2], level[1::2], strict=False)
    parents = [digest(NODE + left + right).digest() for left, right in pairs]
    if len(level) % 2:
        parents.append(level[-1])
    return parents


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(NODE + left + right).digest()


def _split(size: int) -> int:
    """Return the largest power of two below `size`, which is the number of leaves on the left."""
    return 1 << (size - 1).bit_length() - 1
