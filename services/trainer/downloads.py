"""Downloads from the artifact store that end with the lease and do not pass for a stall."""

from __future__ import annotations

from collections.abc import Iterator

from infrastructure.artifacts import Artifacts
from services.trainer.lease import Lease


class LeasedArtifacts(Artifacts):
    """The artifact store as a segment sees it: each chunk that arrives is progress.

    A large base takes longer to arrive than a stall may last, and longer than a grace.
    """

    def __init__(self, url: str, lease: Lease) -> None:
        super().__init__(url)
        self._lease = lease

    def stream(self, ref: str, chunk_bytes: int = 1024 * 1024) -> Iterator[bytes]:
        """The content under a ref in chunks; raises FileNotFoundError and SegmentStopped."""
        for chunk in super().stream(ref, chunk_bytes):
            self._lease.check()
            yield chunk
