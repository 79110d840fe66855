"""Splitting of byte chunks into lines, with only one chunk and one line in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from services.datasets.report import Code, Refused


def limited(chunks: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    """Yield the chunks. Raise Refused (file_too_large) if they exceed `max_bytes`."""
    left = max_bytes
    for chunk in chunks:
        if len(chunk) > left:
            yield chunk[:left]
            raise Refused(
                Code.FILE_TOO_LARGE,
                f"The file is larger than the limit of {in_words(max_bytes)}. "
                "Split it, or ask the operator for a higher limit.",
            )
        left -= len(chunk)
        yield chunk


def split_lines(chunks: Iterable[bytes], max_line_bytes: int) -> Iterator[tuple[bytes, int]]:
    """Yield each line as (content without newline, size in bytes with newline).

    Content is truncated to `max_line_bytes`, but the size is that of the whole line. If `chunks`
    raises an exception, the incomplete line is not yielded.
    """
    kept, size = bytearray(), 0
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        kept += first[: max_line_bytes - len(kept)]
        size += len(first)
        if not others:
            continue
        yield bytes(kept), size + 1
        last = others.pop()
        for line in others:
            yield line[:max_line_bytes], len(line) + 1
        kept, size = bytearray(last[:max_line_bytes]), len(last)
    if size:
        yield bytes(kept), size


def in_words(size: int) -> str:
    """Return a size as text, such as `512 MiB` or `17 bytes`."""
    for unit, name in ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f}".removesuffix(".0") + f" {name}"
    return f"{size} bytes"
