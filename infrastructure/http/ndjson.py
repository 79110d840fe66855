"""Splitting of byte chunks into lines, only at newlines."""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator


def lines_of(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines in bounded memory. Unlike httpx, do not split at U+2028, which JSON may have."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    if rest:
        yield rest


def line_starts(chunks: Iterable[bytes]) -> array[int]:
    """Return the offset of each line in bytes, and that of the end."""
    starts = array("Q", [0])
    for line in lines_of(chunks):
        starts.append(starts[-1] + len(line) + 1)
    return starts


async def lines_as_they_come(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Yield the lines of asynchronous chunks as they arrive."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
    if rest:
        yield rest
