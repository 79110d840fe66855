"""Downloads from the artifact store that count as progress and end with the lease."""

from __future__ import annotations

from collections.abc import Iterator

from infrastructure.artifacts import Artifacts
from services.trainer.lease import Lease


class LeasedArtifacts(Artifacts):
    """The artifact store for a segment. Each chunk counts as progress.

    Downloading a large base takes longer than the limit of a stall, and longer than the grace.
    """

    def __init__(self, url: str, lease: Lease) -> None:
        super().__init__(url)
        self._lease = lease

    def stream(self, ref: str, chunk_bytes: int = 1024 * 1024) -> Iterator[bytes]:
        """Yield the content of a ref in chunks; raise FileNotFoundError or SegmentStopped."""
        for chunk in super().stream(ref, chunk_bytes):
            self._lease.check()
            yield chunk
