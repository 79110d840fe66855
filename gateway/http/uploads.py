"""Uploads: a request's body on its way into the artifact store, never held in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import Request

from gateway.http.errors import NoDiskSpace, TooLarge
from infrastructure.artifacts import Artifacts
from infrastructure.disk_space import DiskLevel, disk_space

FORM_BYTES = 64 * 1024
"""What the rest of a form may add to its file."""


async def store_upload(
    request: Request, artifacts: Artifacts, ref: str, limit: int
) -> tuple[int, str]:
    """Stream the body under a ref; returns (bytes, sha256).

    Raises TooLarge above the limit in bytes, at once if the client declares as much, and
    ClientDisconnect if the client goes away; nothing is kept then.
    """
    refuse_declared(request, limit)
    return await store_stream(request.stream(), artifacts, ref, limit)


async def store_stream(
    chunks: AsyncIterator[bytes], artifacts: Artifacts, ref: str, limit: int
) -> tuple[int, str]:
    """Store a part of a body in the same way."""
    return await artifacts.put_stream(ref, _bounded(chunks, limit))


def refuse_declared(request: Request, limit: int, beside: int = 0) -> None:
    """Refuse an upload before any of it is read.

    Raises NoDiskSpace if the disk is nearly full, and TooLarge if the client says that more comes
    than the limit and what is beside it.
    """
    if disk_space(request.app.state.backend.settings).level is DiskLevel.CRITICAL:
        raise NoDiskSpace("EcoLink has too little disk space for uploads. Ask your operator.")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit + beside:
        raise _too_large(limit)


async def _bounded(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        yield chunk


def _too_large(limit: int) -> TooLarge:
    mebibytes = f"{limit / 1024**2:.1f}".removesuffix(".0")
    return TooLarge(f"the file is larger than the limit of {mebibytes} MiB ({limit} bytes)")
