"""Full disks: the space that a task needs, and errors of a full disk."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from obstore.exceptions import GenericError

from infrastructure.process.full_disk import NoSpace, lacks_space, require_space

FULL = Path("/dev/full")


def test_errors_of_a_full_disk_are_recognized() -> None:
    with pytest.raises(OSError, match="requested") as raised, FULL.open("wb") as file:
        np.zeros(1_000_000).tofile(file)
    assert raised.value.errno is None
    assert lacks_space(raised.value)
    wrapped = RuntimeError("cannot save")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert lacks_space(wrapped)
    assert lacks_space(GenericError("LocalFileSystem: No space left (os error 28)"))
    assert not lacks_space(GenericError("connection refused (os error 111)"))
    assert not lacks_space(OSError(errno.EIO, "1 requested and 0 written"))


def test_all_files_on_a_disk_need_space(tmp_path: Path) -> None:
    free = 2**60  # more than any disk has
    require_space([(tmp_path, 1), (tmp_path, 1)], kept_free_bytes=0)
    with pytest.raises(
        NoSpace, match=r"needs 2147483648\.0 GiB of disk space, and .* GiB are free"
    ):
        require_space([(tmp_path, free), (tmp_path, free)], kept_free_bytes=0)
    with pytest.raises(NoSpace, match=r"and 0\.0 GiB are free"):
        require_space([(tmp_path, 1)], kept_free_bytes=10**21)
