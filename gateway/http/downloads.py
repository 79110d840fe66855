"""Downloads: a stored file on its way to a client, whole or from where an earlier try ended."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, Header
from fastapi.responses import Response, StreamingResponse
from starlette.exceptions import HTTPException

from domain.core.errors import NotFound
from gateway.http.errors import refusals
from infrastructure.artifacts import Artifacts

OCTETS, JSON_LINES = "application/octet-stream", "application/jsonl"

ONE_RANGE = re.compile(r"bytes=[ \t]*(?P<first>[0-9]{0,19})-(?P<last>[0-9]{0,19})[ \t]*")
"""One range. To several at once the whole file is the answer, as RFC 9110 allows."""


@dataclass(frozen=True)
class Conditions:
    """What a client says of the part that it wants, and of what it has already."""

    range: str | None = None
    if_range: str | None = None
    if_none_match: str | None = None


def conditions(
    range: Annotated[
        str | None, Header(description="The part that is wanted.", examples=["bytes=1048576-"])
    ] = None,
    if_range: Annotated[
        str | None,
        Header(description="The ETag of the part that is there; of another file all is sent."),
    ] = None,
    if_none_match: Annotated[
        str | None, Header(description="An ETag; 304 if the file is still that one.")
    ] = None,
) -> Conditions:
    """The headers of a download."""
    return Conditions(range, if_range, if_none_match)


ConditionsOf = Annotated[Conditions, Depends(conditions)]


def file_answers(*media_types: str) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of a route that answers with a file of one of some media types."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    content = dict.fromkeys(media_types, binary)
    etag = {"description": "The sha256 of the whole file.", "schema": {"type": "string"}}
    part = {"description": "Which bytes of how many.", "schema": {"type": "string"}}
    return {
        200: {"description": "The whole file.", "content": content, "headers": {"ETag": etag}},
        206: {
            "description": "The part that was asked for.",
            "content": content,
            "headers": {"ETag": etag, "Content-Range": part},
        },
        304: {"description": "The file is still the one with that ETag."},
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
    """The response with a stored file or a part of it, never held in memory as a whole.

    Raises NotFound, and HTTPException (416) for a part that the file does not have.
    """
    try:
        size, etag = artifacts.size(ref), f'"{sha256}"'
    except FileNotFoundError as error:
        raise NotFound("the file was deleted") from error
    headers = {
        "etag": etag,
        "accept-ranges": "bytes",
        "content-disposition": f"attachment; filename*=UTF-8''{quote(PurePosixPath(name).name)}",
        "x-content-type-options": "nosniff",
    }
    if _names(wanted.if_none_match, etag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    # A date in If-Range names nothing here: files are known by their hash.
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


def span(header: str | None, size: int) -> tuple[int, int] | None:
    """The bytes (start, stop) that a Range header names, stop excluded; None: all of them.

    A header that says nothing this server knows is ignored. Raises HTTPException (416).
    """
    match = ONE_RANGE.fullmatch(header or "")
    if match is None:
        return None
    first, last = match["first"], match["last"]
    if first:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None  # no range at all, says the grammar
    elif last:
        start, stop = max(0, size - int(last)), size
    else:
        return None
    if start >= stop:
        raise HTTPException(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            f"the file has {size} bytes; there is no {header}",
            {"content-range": f"bytes */{size}"},
        )
    return start, stop


def _names(header: str | None, etag: str) -> bool:
    """Whether an If-None-Match header names the ETag, also as a weak one."""
    named = [each.strip().removeprefix("W/") for each in (header or "").split(",")]
    return etag in named or "*" in named
