"""Downloads of stored files: complete, by byte range, or as a zip archive."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import Annotated, Any
from urllib.parse import quote
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from fastapi import Depends, Header
from fastapi.responses import Response, StreamingResponse
from starlette.exceptions import HTTPException

from domain.core.errors import NotFound
from gateway.http.errors import refusals
from infrastructure.artifacts.store import Artifacts

OCTETS, JSON_LINES, ZIP = "application/octet-stream", "application/jsonl", "application/zip"

ONE_RANGE = re.compile(r"bytes=[ \t]*(?P<first>[0-9]{0,19})-(?P<last>[0-9]{0,19})[ \t]*")
"""Pattern of a single range. For several ranges, send the whole file, as RFC 9110 allows."""


MODIFIED_AT = (1980, 1, 1, 0, 0, 0)
"""Oldest time that the zip format can store. A fixed time makes archives reproducible."""


@dataclass(frozen=True)
class Conditions:
    """The Range, If-Range and If-None-Match headers of a request."""

    range: str | None = None
    if_range: str | None = None
    if_none_match: str | None = None


def conditions(
    range: Annotated[
        str | None, Header(description="Byte range to send.", examples=["bytes=1048576-"])
    ] = None,
    if_range: Annotated[
        str | None,
        Header(
            description="Send the range only if the file has this ETag, otherwise the whole file."
        ),
    ] = None,
    if_none_match: Annotated[
        str | None, Header(description="Return 304 if the file has this ETag.")
    ] = None,
) -> Conditions:
    return Conditions(range, if_range, if_none_match)


ConditionsOf = Annotated[Conditions, Depends(conditions)]


def file_answers(*media_types: str) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses of a route that returns a file of these media types."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    content = dict.fromkeys(media_types, binary)
    etag = {"description": "SHA-256 of the whole file.", "schema": {"type": "string"}}
    part = {"description": "The byte range and the size of the file.", "schema": {"type": "string"}}
    return {
        200: {"description": "The whole file.", "content": content, "headers": {"ETag": etag}},
        206: {
            "description": "The requested range.",
            "content": content,
            "headers": {"ETag": etag, "Content-Range": part},
        },
        304: {"description": "The file still has this ETag."},
        **refusals(404, 416),
    }


def download(
    artifacts: Artifacts,
    ref: str,
    sha256: str,
    wanted: Conditions,
    *,
    name: str,
    media_type: str = OCTETS,
) -> Response:
    """Return a response that streams a stored file or a range of it.

    Raise NotFound if the file does not exist, and HTTPException (416) for a range outside the file.
    """
    try:
        size, etag = artifacts.size(ref), f'"{sha256}"'
    except FileNotFoundError as error:
        raise NotFound("EcoLink deleted the file. Request the list of files again.") from error
    headers = {"etag": etag, "accept-ranges": "bytes", **_attachment(PurePosixPath(name).name)}
    if _names(wanted.if_none_match, etag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    # A date in If-Range never matches, because the ETag is the hash of the file.
    same = wanted.if_range is None or wanted.if_range.strip() == etag
    part = span(wanted.range, size) if same else None
    start, stop = part or (0, size)
    headers["content-length"] = str(stop - start)
    if part is not None:
        headers["content-range"] = f"bytes {start}-{stop - 1}/{size}"
    return StreamingResponse(
        artifacts.stream_range(ref, start, stop),
        HTTPStatus.OK if part is None else HTTPStatus.PARTIAL_CONTENT,
        headers,
        media_type,
    )


def _attachment(name: str) -> dict[str, str]:
    return {
        "content-disposition": f"attachment; filename*=UTF-8''{quote(name)}",
        "x-content-type-options": "nosniff",
    }


def span(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the half-open byte range [start, stop) of a Range header.

    Return None for the whole file or an invalid header. Raise HTTPException (416) for a range
    outside the file.
    """
    match = ONE_RANGE.fullmatch(header or "")
    if match is None:
        return None
    first, last = match["first"], match["last"]
    if first:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None  # invalid by the grammar of RFC 9110
    elif last:
        start, stop = max(0, size - int(last)), size
    else:
        return None
    if start >= stop:
        raise HTTPException(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            f"Range {header} is outside the file, which has {size:,} bytes. Send another range.",
            {"content-range": f"bytes */{size}"},
        )
    return start, stop


def _names(header: str | None, etag: str) -> bool:
    named = [each.strip().removeprefix("W/") for each in (header or "").split(",")]
    return etag in named or "*" in named


class Outgoing(io.RawIOBase):
    """A buffer of bytes to send. It is not seekable, so ZipFile never rewrites bytes."""

    def __init__(self) -> None:
        self._written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, content: object) -> int:
        view = memoryview(content)  # type: ignore[arg-type]
        self._written += view
        return view.nbytes

    def take(self) -> bytes:
        taken = bytes(self._written)
        self._written.clear()
        return taken


@dataclass(frozen=True)
class Archive:
    """A zip archive of stored files in one directory, given as (name, ref) pairs."""

    directory: str
    files: Sequence[tuple[str, str]]

    def response(self, artifacts: Artifacts) -> Response:
        return StreamingResponse(
            self.chunks(artifacts), headers=_attachment(f"{self.directory}.zip"), media_type=ZIP
        )

    def chunks(self, artifacts: Artifacts) -> Iterator[bytes]:
        """Yield the archive in chunks. Raise FileNotFoundError if a file does not exist.

        The archive is not compressed, because compression hardly shrinks model weights.
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
