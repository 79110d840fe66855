"""Lines of bytes that come in chunks: a newline ends one, and nothing else does."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator


def lines_of(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The lines without their ends; memory is bounded by a chunk and a line.

    httpx's own end at U+2028 and others as well, as `str.splitlines` does, and JSON may have those.
    """
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    if rest:
        yield rest


async def lines_as_they_come(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The same of chunks that are waited for."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
    if rest:
        yield rest
