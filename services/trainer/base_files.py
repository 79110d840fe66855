"""A base model's files, held against the manifest that the job was approved with.

A base is read in place, by every job, and what became of its files since they were stored nobody
else would see. A machine hashes them once, and again when they were touched in any way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from domain.jobs.failures import FailureClass
from infrastructure.artifacts import Manifest
from services.trainer.failures import SegmentFailure

VERIFIED = "verified"
"""Of a machine's cache: an empty file for each base that was found to be as its manifest says."""

CHUNK_BYTES = 1024**2


class BaseDamaged(SegmentFailure):
    """A base model's files are not those of its manifest."""

    failure = FailureClass.MODEL_LOAD_FAILED


def states(directory: Path) -> dict[str, tuple[int, ...]]:
    """What the file system says of each file below a directory, by its name there.

    Size first. Whatever changes a file, changes this: the last is a time that nobody can set.
    """
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        of = path.stat()
        state = (of.st_size, of.st_dev, of.st_ino, of.st_mtime_ns, of.st_ctime_ns)
        found[path.relative_to(directory).as_posix()] = state
    return found


class BaseFiles:
    """Files that are being hashed, by a thread, unless this machine remembers them."""

    def __init__(
        self, directory: Path, manifest: Manifest, verified: Path, check: Callable[[], None]
    ) -> None:
        """Begin. `check` is called for each piece that was hashed, and may raise to end it.

        Raises BaseDamaged for a file that is missing or of another size.
        """
        self._directory, self._manifest, self._check = directory, manifest, check
        found = states(directory)
        for file in manifest.files:
            size, *_ = found.get(file.path, (None,))
            if size != file.bytes:
                there = "is missing" if size is None else f"has {size} bytes, not {file.bytes}"
                raise BaseDamaged(f"{directory / file.path} {there}")
        said = repr((str(directory), manifest.sha256, found))
        self._verified = verified / hashlib.sha256(said.encode()).hexdigest()
        self._hashing = None
        if not self._verified.exists():
            thread = ThreadPoolExecutor(1, "base files")
            self._hashing = thread.submit(self._hash)
            thread.shutdown(wait=False)

    def require(self) -> None:
        """Wait for the hashes; raises BaseDamaged, or what `check` raised."""
        if self._hashing is not None:
            self._hashing.result()

    def _hash(self) -> None:
        """Hash all files, and remember those that were found good, if the disk takes it."""
        for file in self._manifest.files:
            digest, path = hashlib.sha256(), self._directory / file.path
            with path.open("rb") as opened:
                while chunk := opened.read(CHUNK_BYTES):
                    digest.update(chunk)
                    self._check()
            if digest.hexdigest() != file.sha256:
                raise BaseDamaged(f"{path} differs from its manifest")
        with suppress(OSError):
            self._verified.parent.mkdir(parents=True, exist_ok=True)
            self._verified.touch()
