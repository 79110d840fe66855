"""Merkle trees, against a direct transcription of RFC 9162's definitions."""

from __future__ import annotations

from hashlib import sha256

import pytest

from domain.audit.merkle import (
    EMPTY_ROOT,
    Frontier,
    includes,
    is_consistent,
    leaf_hash,
    prove_consistency,
    prove_inclusion,
    root_of,
)

LEAVES = [leaf_hash(bytes([number])) for number in range(33)]
SIZES = range(1, len(LEAVES) + 1)


def defined_root(leaves: list[bytes]) -> bytes:
    """Return the root hash by RFC 9162's recursive definition (section 2.1.1)."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return sha256(b"\x01" + defined_root(leaves[:k]) + defined_root(leaves[k:])).digest()


def prove(size: int, earlier: int) -> list[bytes]:
    """Return the proof that the first leaves are consistent with fewer of them."""
    return prove_consistency(size, earlier, lambda start, end: root_of(LEAVES[start:end]))


def test_roots_follow_the_definition() -> None:
    assert root_of([]) == EMPTY_ROOT
    for size in SIZES:
        assert root_of(LEAVES[:size]) == defined_root(LEAVES[:size])


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 32])
def test_a_tree_grows_in_parts(cut: int) -> None:
    frontier = Frontier()
    frontier.extend(LEAVES[:cut])
    frontier.extend(LEAVES[cut:])
    assert (frontier.size, frontier.root) == (33, defined_root(LEAVES))


@pytest.mark.parametrize("size", SIZES)
def test_each_leaf_has_an_inclusion_proof_that_fits_nothing_else(size: int) -> None:
    leaves = LEAVES[:size]
    root = root_of(leaves)
    for index, proof in enumerate(prove_inclusion(leaves, range(size))):
        assert includes(root, size, index, leaves[index], proof)
        assert not includes(root, size, index, leaf_hash(b"other"), proof)
        assert not includes(root, size, index, leaves[index], [*proof, root])
        assert not includes(leaf_hash(b"other"), size, index, leaves[index], proof)
        for other in range(size):
            if other != index:
                assert not includes(root, size, other, leaves[index], proof)


@pytest.mark.parametrize("size", SIZES)
def test_each_earlier_size_has_a_consistency_proof_that_fits_nothing_else(size: int) -> None:
    leaves = LEAVES[:size]
    root = root_of(leaves)
    for earlier in range(1, size + 1):
        proof, old = prove(size, earlier), root_of(leaves[:earlier])
        assert is_consistent(old, earlier, root, size, proof)
        assert not is_consistent(leaf_hash(b"other"), earlier, root, size, proof)
        assert not is_consistent(old, earlier, leaf_hash(b"other"), size, proof)
        assert not is_consistent(old, earlier, root, size, [*proof, root])
        if proof:
            assert not is_consistent(old, earlier, root, size, proof[:-1])


def test_a_proof_of_a_leaf_or_size_that_is_absent_is_refused() -> None:
    with pytest.raises(IndexError):
        prove_inclusion(LEAVES, [33])
    for earlier in (0, 34):
        with pytest.raises(IndexError):
            prove(33, earlier)
    assert not includes(root_of(LEAVES), 33, 33, LEAVES[0], [])
    assert not is_consistent(EMPTY_ROOT, 0, root_of(LEAVES), 33, [])
