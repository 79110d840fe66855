"""The compact set of digests."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.datasets.digests import DigestSet

# Few bytes, so that digests share buckets and match across neighbours.
digests = st.lists(st.sampled_from([b"a", b"b"]), min_size=16, max_size=16).map(b"".join)


@given(st.lists(digests, max_size=60))
def test_new_digests_are_distinguished_from_known_ones(sequence: list[bytes]) -> None:
    seen: set[bytes] = set()
    compact = DigestSet()
    for digest in sequence:
        assert compact.add(digest) == (digest not in seen)
        seen.add(digest)


def test_a_match_across_two_digests_does_not_count() -> None:
    compact = DigestSet()
    first, second = b"xx" + b"a" * 7 + b"b" * 7, b"xx" + b"c" * 7 + b"d" * 7
    across = b"xx" + b"b" * 7 + b"c" * 7
    assert compact.add(first)
    assert compact.add(second)
    assert compact.add(across)
    assert not compact.add(across)
