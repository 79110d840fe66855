"""The end of a failed job's log, merged from live log lines and stored process output."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from itertools import count
from typing import Any

from gateway.jobs.schemas import LogLine

PRINTED = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL) (.*)")
"""A line that a trainer prints and also sends live."""


def joined(sent: Sequence[dict[str, Any]], segment: int, kept: str) -> list[LogLine]:
    """Merge the live lines and the stored output of the failed segment, without duplicates.

    The stored output is the end of everything that the process printed. It includes other output,
    such as that of an interpreter crash, and has no line numbers. The overlap with the live lines
    of the segment determines the numbers. A stored line that is not a log line gets no number.
    """
    lines = [_kept_line(text) for text in kept.splitlines()]
    logged = [line for line in lines if line.level is not None]
    live = [LogLine(**line) for line in sent if line["segment"] == segment]
    start = _start(live, logged)
    both = live[start : start + len(logged)]
    before = len(sent) - len(live)
    return [
        *(LogLine(**line) for line in sent[:before]),
        *live[:start],
        *(_numbered(lines, both) if both else lines),
        *live[start + len(both) :],
    ]


def _numbered(lines: Sequence[LogLine], both: Sequence[LogLine]) -> Generator[LogLine]:
    """Yield the stored lines with numbers. `both` has the live lines that they begin with."""
    first = both[0]
    assert first.n is not None
    numbers = count(first.n)
    known = {line.n: line.logged_at for line in both}
    for line in lines:
        if line.level is None:
            yield line
        else:
            n = next(numbers)
            place = {"segment": first.segment, "n": n, "logged_at": known.get(n)}
            yield line.model_copy(update=place)


def _kept_line(text: str) -> LogLine:
    printed = PRINTED.fullmatch(text)
    if printed is None:
        return LogLine(text=text)
    return LogLine(level=printed[1], text=printed[2])


def _start(live: Sequence[LogLine], logged: Sequence[LogLine]) -> int:
    """Return the index of the first live line in the stored output, or the number of lines."""
    for start in range(len(live) if logged else 0):
        pairs = zip(live[start:], logged, strict=False)  # either may be longer
        # Live lines may be truncated.
        if all(
            known.level == line.level and line.text.startswith(known.text) for known, line in pairs
        ):
            return start
    return len(live)
