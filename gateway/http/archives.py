"""Zip archives of stored files, created on the fly during the download."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from fastapi.responses import Response, StreamingResponse

from infrastructure.artifacts import Artifacts

MEDIA_TYPE = "application/zip"

MODIFIED_AT = (1980, 1, 1, 0, 0, 0)
"""Oldest time that the zip format can store. A fixed time makes archives reproducible."""


class Outgoing(io.RawIOBase):
    """A buffer of written bytes not yet sent. It is unseekable, so ZipFile never rewrites."""

    def __init__(self) -> None:
        self._written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, content: object) -> int:
        view = memoryview(content)  # type: ignore[arg-type]
        self._written += view
        return view.nbytes

    def take(self) -> bytes:
        """Return the buffered bytes and clear the buffer."""
        taken = bytes(self._written)
        self._written.clear()
        return taken


@dataclass(frozen=True)
class Archive:
    """A zip archive of stored files, given as (name, reference) pairs, in one directory."""

    directory: str
    files: Sequence[tuple[str, str]]

    def response(self, artifacts: Artifacts) -> Response:
        """Return a response that streams the archive."""
        return StreamingResponse(
            self.chunks(artifacts),
            headers={
                "content-disposition": f"attachment; filename*=UTF-8''{quote(self.directory)}.zip",
                "x-content-type-options": "nosniff",
            },
            media_type=MEDIA_TYPE,
        )

    def chunks(self, artifacts: Artifacts) -> Iterator[bytes]:
        """Yield the archive in chunks. Raises FileNotFoundError.

        It is not compressed, because compression barely shrinks model weights.
        """
        outgoing = Outgoing()
        with ZipFile(outgoing, "w", ZIP_STORED) as zipped:
            for name, ref in self.files:
                entry = ZipInfo(f"{self.directory}/{name}", MODIFIED_AT)
                entry.external_attr = 0o644 << 16
                with zipped.open(entry, "w", force_zip64=True) as file:
                    for chunk in artifacts.stream(ref):
                        file.write(chunk)
                        yield outgoing.take()
        yield outgoing.take()
