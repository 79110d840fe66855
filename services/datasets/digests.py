"""A compact set of digests, to find duplicates among millions of examples."""

from __future__ import annotations

DIGEST_BYTES = 16
_REST_BYTES = DIGEST_BYTES - 2


class DigestSet:
    """A compact set of 16-byte digests, by two bytes in 65,536 buckets of the other 14."""

    def __init__(self) -> None:
        self._buckets: dict[bytes, bytearray] = {}

    def add(self, digest: bytes) -> bool:
        """Add a digest. Return True if it is new."""
        assert len(digest) == DIGEST_BYTES
        start, rest = digest[:2], digest[2:]
        bucket = self._buckets.get(start)
        if bucket is None:
            self._buckets[start] = bytearray(rest)
            return True
        found = bucket.find(rest)
        while found > 0 and found % _REST_BYTES:  # skips a match that spans two neighbors
            found = bucket.find(rest, found + 1)
        if found >= 0:
            return False
        bucket += rest
        return True
