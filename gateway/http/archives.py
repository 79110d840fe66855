"""Several stored files as one zip archive, made while it is sent."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from infrastructure.artifacts import Artifacts

MEDIA_TYPE = "application/zip"

STORED_AT = (1980, 1, 1, 0, 0, 0)
"""The oldest time that an archive can tell: the same files make the same archive."""


class Outgoing(io.RawIOBase):
    """What was written and is not sent yet; it cannot be sought in, so nothing is written twice."""

    def __init__(self) -> None:
        self._written = bytearray()

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, content: object) -> int:
        """Add bytes."""
        view = memoryview(content)  # type: ignore[arg-type]
        self._written += view
        return view.nbytes

    def take(self) -> bytes:
        """All of it, once."""
        taken = bytes(self._written)
        self._written.clear()
        return taken


def archive(
    artifacts: Artifacts, directory: str, files: Iterable[tuple[str, str]]
) -> Iterator[bytes]:
    """A zip archive of (name, ref) pairs in one directory, in pieces; weights do not compress.

    Raises FileNotFoundError.
    """
    outgoing = Outgoing()
    with ZipFile(outgoing, "w", ZIP_STORED) as zipped:
        for name, ref in files:
            entry = ZipInfo(f"{directory}/{name}", STORED_AT)
            entry.external_attr = 0o644 << 16
            with zipped.open(entry, "w", force_zip64=True) as file:
                for chunk in artifacts.stream(ref):
                    file.write(chunk)
                    yield outgoing.take()
    yield outgoing.take()
