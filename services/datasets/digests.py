"""A compact set of digests, to find repeated examples among millions."""

from __future__ import annotations

DIGEST_BYTES = 16
_REST_BYTES = DIGEST_BYTES - 2


class DigestSet:
    """A set of 16-byte digests in about 16 bytes each; a Python set would take about 100.

    The first two bytes choose one of 65,536 buckets, which holds the other 14 bytes of each.
    """

    def __init__(self) -> None:
        self._buckets: dict[bytes, bytearray] = {}

    def add(self, digest: bytes) -> bool:
        """Add a digest; returns whether it is new."""
        assert len(digest) == DIGEST_BYTES
        start, rest = digest[:2], digest[2:]
        bucket = self._buckets.get(start)
        if bucket is None:
            self._buckets[start] = bytearray(rest)
            return True
        found = bucket.find(rest)
        while found > 0 and found % _REST_BYTES:  # a match across two neighbours is none
            found = bucket.find(rest, found + 1)
        if found >= 0:
            return False
        bucket += rest
        return True
