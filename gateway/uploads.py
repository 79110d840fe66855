"""Uploads: a request's body on its way into the artifact store, never held in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import Request

from gateway.errors import TooLarge
from infrastructure.artifacts import Artifacts


async def store_upload(
    request: Request, artifacts: Artifacts, ref: str, limit: int
) -> tuple[int, str]:
    """Stream the body under a ref; returns (bytes, sha256).

    Raises TooLarge above the limit in bytes, at once if the client declares as much, and
    ClientDisconnect if the client goes away; nothing is kept then.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    return await artifacts.put_stream(ref, _bounded(request.stream(), limit))


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
