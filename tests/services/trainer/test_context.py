"""Downloads end with the lease, and count as progress."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.trainer.clock import SegmentClock
from services.trainer.context import LeasedArtifacts
from services.trainer.lease import Lease, SegmentStopped

MEBIBYTE = 1024**2


class CountingLease(Lease):
    """A lease that counts progress."""

    count = 0

    def progress(self) -> None:
        self.count += 1


def test_each_downloaded_chunk_counts_as_progress_until_the_lease_ends(tmp_path: Path) -> None:
    lease = CountingLease(SegmentClock(0.0), 60, 30)
    artifacts = LeasedArtifacts((tmp_path / "store").as_uri(), lease)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(bytes(3 * MEBIBYTE))
    artifacts.put_directory("models/big", tmp_path / "model")
    artifacts.get_directory("models/big", tmp_path / "copy")
    assert lease.count == 3
    chunks = artifacts.stream("models/big/weights")
    assert len(next(chunks)) == MEBIBYTE
    lease.request_stop()
    with pytest.raises(SegmentStopped):
        next(chunks)
    assert lease.count == 5
