"""The end of a failed job's log: lines that the trainer sent live, and its kept output."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from itertools import count
from typing import Any

from gateway.jobs.schemas import LogLine

PRINTED = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL) (.*)")
"""A line that a trainer prints and also sends live."""


def joined(sent: Sequence[dict[str, Any]], segment: int, kept: str) -> list[LogLine]:
    """Merge the live lines and the kept output of the failed segment, each line once.

    The kept output is the end of what the process printed. It has other output too, such as a
    crash of the interpreter, and no line numbers. The numbers follow from the overlap with the live
    lines of that segment. A kept line that is not a line of the log gets no number.
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
    """Number the kept lines. `both` are the live lines that they start with."""
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
    """Return the index of the first live line that was kept, or the length if none was."""
    for start in range(len(live) if logged else 0):
        pairs = zip(live[start:], logged, strict=False)  # either may be longer
        # Live lines may be truncated.
        if all(
            known.level == line.level and line.text.startswith(known.text) for known, line in pairs
        ):
            return start
    return len(live)
