"""Downloads end with the lease, and count as progress."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.trainer.clock import SegmentClock
from services.trainer.context import LeasedArtifacts
from services.trainer.lease import Lease, SegmentStopped


class Counted(Lease):
    """Counts progress."""

    signs = 0

    def progress(self) -> None:
        self.signs += 1


def test_each_chunk_counts_as_progress_until_the_lease_ends(tmp_path: Path) -> None:
    lease = Counted(SegmentClock(0.0), 60, 30)
    artifacts = LeasedArtifacts((tmp_path / "store").as_uri(), lease)
    content = bytes(3 * 1024 * 1024)
    artifacts.put("models/big/weights", content)
    chunks = artifacts.stream("models/big/weights")
    arrived = next(chunks)
    assert lease.signs == 1
    lease.request_stop()
    with pytest.raises(SegmentStopped):
        next(chunks)
    assert lease.signs == 2
    assert len(arrived) < len(content)


def test_a_directory_is_downloaded_in_chunks(tmp_path: Path) -> None:
    lease = Counted(SegmentClock(0.0), 60, 30)
    artifacts = LeasedArtifacts((tmp_path / "store").as_uri(), lease)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"weights")
    artifacts.put_directory("models/one", tmp_path / "model")
    artifacts.get_directory("models/one", tmp_path / "copy")
    assert lease.signs == 1
    lease.clock = SegmentClock(60.0)
    with pytest.raises(SegmentStopped):
        artifacts.get_directory("models/one", tmp_path / "again")
