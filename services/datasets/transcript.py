"""Reader of plain-text transcripts, in which a name and a colon start each message."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from services.datasets.ndjson import in_words, split_lines
from services.datasets.report import Code, Refused
from services.datasets.rows import Row

START = re.compile(r"(system|user|assistant):", re.IGNORECASE)
END = "---"


def starts_message(line: str) -> bool:
    """Return True if a line starts a message of a transcript."""
    return START.match(line) is not None


def transcript_rows(chunks: Iterable[bytes], max_row_bytes: int) -> Iterator[Row]:
    """Yield the examples of a transcript. The number of each is that of its first line."""
    example = _Example(max_row_bytes)
    for number, (content, size) in enumerate(split_lines(chunks, max_row_bytes), 1):
        line = content.rstrip(b"\r")
        if line.rstrip() == END.encode():
            if (row := example.row()) is not None:
                yield row
            example = _Example(max_row_bytes)
        else:
            example.take(line, size, number)
    if (row := example.row()) is not None:
        yield row


class _Example:
    """The lines of an example that were read so far."""

    def __init__(self, max_bytes: int) -> None:
        self._number = 0
        self._bytes = 0
        self._max_bytes = max_bytes
        self._messages: list[tuple[str, list[str]]] = []
        self._error: Refused | None = None

    def take(self, line: bytes, size: int, number: int) -> None:
        """Take the next line of the example. `number` is its number in the file."""
        if not self._number:
            if not line.strip():
                return
            self._number = number
        self._bytes += size
        if self._error is not None:
            return
        if self._bytes > self._max_bytes:
            self._error = Refused(
                Code.LINE_TOO_LONG,
                f"The example has more than {in_words(self._max_bytes)}. Shorten it, or add a "
                f"line {END} after each example.",
            )
            self._messages.clear()
            return
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            self._error = Refused(
                Code.BAD_UTF8,
                f"Line {number:,} is not valid UTF-8 (byte 0x{line[error.start]:02x}). Save the "
                "file as UTF-8.",
            )
            return
        text = text.removeprefix("\ufeff") if number == 1 else text
        if found := START.match(text):
            self._messages.append((found[1].lower(), [text[found.end() :].removeprefix(" ")]))
        elif self._messages:
            self._messages[-1][1].append(text)
        else:
            self._error = Refused(
                Code.MALFORMED_TRANSCRIPT,
                f"Line {number:,} belongs to no message. Start the example with System:, User: or "
                "Assistant:.",
            )

    def row(self) -> Row | None:
        """Return the example, or None if it has no lines."""
        if not self._number:
            return None
        if self._error is not None:
            return Row(error=self._error, number=self._number)
        messages: list[dict[str, Any]] = [
            {"role": role, "content": "\n".join(lines).strip("\n")}
            for role, lines in self._messages
        ]
        return Row(value={"messages": messages}, number=self._number)
