"""Verification of a base model's files, once per machine and again after a change."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from domain.jobs.failures import FailureClass
from infrastructure.artifacts.store import Manifest
from services.trainer.failures import SegmentFailure

VERIFIED = "verified"
"""Folder in a machine's cache with an empty file for each base model that is verified."""

CHUNK_BYTES = 1024**2


class BaseDamaged(SegmentFailure):
    """The files of a base model differ from its manifest."""

    failure = FailureClass.MODEL_LOAD_FAILED


def states(directory: Path) -> dict[str, tuple[int, ...]]:
    """Return size, inode and times of each file. No user can set a ctime, so changes show."""
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        of = path.stat()
        state = (of.st_size, of.st_dev, of.st_ino, of.st_mtime_ns, of.st_ctime_ns)
        found[path.relative_to(directory).as_posix()] = state
    return found


class BaseFiles:
    """Files of a base model, hashed in a thread unless this machine has already verified them."""

    def __init__(
        self, directory: Path, manifest: Manifest, verified: Path, check: Callable[[], None]
    ) -> None:
        """Start hashing, with `check` for each chunk, unless files or sizes differ."""
        self._directory, self._manifest, self._check = directory, manifest, check
        found = states(directory)
        for file in manifest.files:
            size, *_ = found.get(file.path, (None,))
            if size != file.bytes:
                damage = "is missing" if size is None else f"has {size:,} bytes, not {file.bytes:,}"
                raise BaseDamaged(f"{directory / file.path} {damage}. Import the base model again.")
        identity = repr((str(directory), manifest.sha256, found))
        self._verified = verified / hashlib.sha256(identity.encode()).hexdigest()
        self._hashing = None
        if not self._verified.exists():
            thread = ThreadPoolExecutor(1, "base files")
            self._hashing = thread.submit(self._hash)
            thread.shutdown(wait=False)

    def require(self) -> None:
        """Wait for the hashes. Raise BaseDamaged, or the error that `check` raised."""
        if self._hashing is not None:
            self._hashing.result()

    def _hash(self) -> None:
        for file in self._manifest.files:
            digest, path = hashlib.sha256(), self._directory / file.path
            with path.open("rb") as opened:
                while chunk := opened.read(CHUNK_BYTES):
                    digest.update(chunk)
                    self._check()
            if digest.hexdigest() != file.sha256:
                raise BaseDamaged(f"{path} differs from its manifest. Import the base model again.")
        with suppress(OSError):  # a full disk
            self._verified.parent.mkdir(parents=True, exist_ok=True)
            self._verified.touch()
