"""The line or row of the upload of each example, stored compactly beside the examples.

Rejected, blank and repeated lines have no example, so both numbers differ. The file has a line
`EXAMPLE LINE` for each example after a gap. An empty file means that both numbers are equal.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path

LINES = "lines.txt"
"""Name of the file beside the examples."""


class LineNumbersWriter:
    """A writer of the line numbers of examples, in order."""

    def __init__(self, sink: Callable[[bytes], object]) -> None:
        self._sink = sink
        self._example = 0
        self._gap = 0

    def add(self, line: int) -> None:
        """Add the next example, which is in the given line."""
        self._example += 1
        if line - self._example != self._gap:
            self._gap = line - self._example
            self._sink(f"{self._example} {line}\n".encode())


class LineNumbers:
    """The lines of examples, by their number from 1."""

    def __init__(self, content: bytes = b"") -> None:
        """Read a file of LineNumbersWriter. Without content, each example is in its own line."""
        self._examples, self._gaps = [0], [0]
        for entry in content.split(b"\n"):
            if entry:
                example, line = map(int, entry.split())
                self._examples.append(example)
                self._gaps.append(line - example)

    @classmethod
    def of(cls, path: Path | None) -> LineNumbers:
        """Return the numbers in a file. Datasets of earlier versions have none."""
        return cls(path.read_bytes() if path is not None and path.exists() else b"")

    def line_of(self, example: int) -> int:
        """Return the line of an example. Both count from 1."""
        return example + self._gaps[bisect_right(self._examples, example) - 1]
