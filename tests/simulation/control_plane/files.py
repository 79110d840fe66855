"""The artifact store: files in a dict, and a store that is away, full or damaged."""

from __future__ import annotations

import errno
from collections.abc import Callable

from infrastructure.artifacts.store import MANIFEST, Artifacts


class Files:
    """The stored files. `away_until` and `full_until` are the ends of faults."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.content: dict[str, bytes] = {}
        self.away_until = 0.0
        self.full_until = 0.0

    def require(self, *, space: bool = False) -> None:
        """Raise OSError if the store is away, or full while something needs space."""
        if self._now() < self.away_until:
            raise OSError(errno.EIO, "the artifact store is away")
        if space and self._now() < self.full_until:
            raise OSError(errno.ENOSPC, "the artifact store is full")

    def damage(self, prefix: str) -> bool:
        """Destroy the manifest of a directory. Return False if there is none."""
        return self.content.pop(f"{prefix}/{MANIFEST}", None) is not None

    def is_intact(self, prefix: str) -> bool:
        return f"{prefix}/{MANIFEST}" in self.content


class SimulatedArtifacts(Artifacts):
    """The product's store over `Files`. `reach` is called before each change."""

    def __init__(self, files: Files, reach: Callable[[str], None]) -> None:
        self.root = None
        self._files = files
        self._reach = reach

    def put(self, ref: str, content: bytes) -> None:
        self._reach("before file")
        self._files.require(space=True)
        self._files.content[ref] = content

    def create(self, ref: str, content: bytes) -> bool:
        if self.exists(ref):
            return False
        self.put(ref, content)
        return True

    def get(self, ref: str) -> bytes:
        self._files.require()
        if ref not in self._files.content:
            raise FileNotFoundError(ref)
        return self._files.content[ref]

    def get_document(self, ref: str) -> bytes:
        return self.get(ref)

    def exists(self, ref: str) -> bool:
        self._files.require()
        return ref in self._files.content

    def delete(self, ref: str) -> None:
        self._reach("before file")
        self._files.require()
        self._files.content.pop(ref, None)

    def list(self, prefix: str) -> list[str]:
        self._files.require()
        return sorted(ref for ref in self._files.content if ref.startswith(f"{prefix}/"))

    def delete_directory(self, prefix: str) -> None:
        """Delete all refs under a prefix, starting with the manifest."""
        self.delete(f"{prefix}/{MANIFEST}")
        for ref in self.list(prefix):
            self.delete(ref)
