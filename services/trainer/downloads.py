"""Artifact downloads that count as progress and end with the lease."""

from __future__ import annotations

from collections.abc import Iterator

from infrastructure.artifacts import Artifacts
from services.trainer.lease import Lease


class LeasedArtifacts(Artifacts):
    """The artifact store of a segment, in which each downloaded chunk counts as progress.

    Downloading a large base can take longer than the stall limit and the grace period.
    """

    def __init__(self, url: str, lease: Lease) -> None:
        super().__init__(url)
        self._lease = lease

    def stream(self, ref: str, chunk_bytes: int = 1024 * 1024) -> Iterator[bytes]:
        """Yield the content of a ref in chunks.

        Raise FileNotFoundError if it does not exist, and SegmentStopped if the segment has to end.
        """
        for chunk in super().stream(ref, chunk_bytes):
            self._lease.check()
            yield chunk
