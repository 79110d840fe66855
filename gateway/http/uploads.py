"""Streaming of uploads into the artifact store."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import Request

from gateway.http.errors import TooLarge
from infrastructure.artifacts.store import Artifacts

FORM_BYTES = 64 * 1024
"""Maximum size in bytes of the other fields of a form."""


async def store_upload(
    request: Request, artifacts: Artifacts, ref: str, limit: int
) -> tuple[int, str]:
    """Store a body of at most `limit` bytes. Return size and SHA-256. Failures store nothing."""
    refuse_declared(request, limit)
    return await store_stream(request.stream(), artifacts, ref, limit)


async def store_stream(
    chunks: AsyncIterator[bytes], artifacts: Artifacts, ref: str, limit: int
) -> tuple[int, str]:
    """Store the content of a form part. See `store_upload`."""
    return await artifacts.put_stream(ref, _bounded(chunks, limit))


def refuse_declared(request: Request, limit: int, beside: int = 0) -> None:
    """Raise TooLarge for an upload above `limit` + `beside` before reading it."""
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
    return TooLarge(f"The file exceeds {mebibytes} MiB ({limit:,} bytes). Upload a smaller one.")
