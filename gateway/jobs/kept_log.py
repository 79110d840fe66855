"""The last lines of a failed job: what its trainer told live, and what was kept of its output."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from itertools import count
from typing import Any

from gateway.jobs.schemas import LogLine

PRINTED = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL) (.*)")
"""How a trainer prints a line that it also tells live, the level first."""


def joined(told: Sequence[dict[str, Any]], segment: int, kept: str) -> list[LogLine]:
    """The lines that came live, then those that were kept, each once.

    What was kept is the end of the output of the segment that failed: it has what the process
    printed beside its log, such as a crash of the interpreter, and what never came live; and it has
    no numbers. They follow from where it overlaps with the lines of that segment that came live;
    a kept line that is no line of the log has none.
    """
    lines = [_kept_line(text) for text in kept.splitlines()]
    logged = [line for line in lines if line.level is not None]
    live = [LogLine(**line) for line in told if line["segment"] == segment]
    start = _start(live, logged)
    both = live[start : start + len(logged)]
    before = len(told) - len(live)
    return [
        *(LogLine(**line) for line in told[:before]),
        *live[:start],
        *(_numbered(lines, both) if both else lines),
        *live[start + len(both) :],
    ]


def _numbered(lines: Sequence[LogLine], both: Sequence[LogLine]) -> Generator[LogLine]:
    """The kept lines with their places in the log, of which the first ones came live too."""
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
    """Which line that came live is the first one that was kept; behind them all, if none is."""
    for start in range(len(live) if logged else 0):
        pairs = zip(live[start:], logged, strict=False)  # either may be ahead of the other
        # What comes live may be cut to a length.
        if all(
            known.level == line.level and line.text.startswith(known.text) for known, line in pairs
        ):
            return start
    return len(live)
