"""Preparation of trainer output for customers, without stack traces and server paths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

PATH = re.compile(
    r"""(?:file://|(?<![\w:/.\\]))     # where a path begins, not inside a word or another URL
        /(?:[^\s/'"`<>()\[\],:;=]+/)+   # its directories
        (?P<name>[^\s/'"`<>()\[\],:;=]*)""",
    re.VERBOSE,
)
TRACE = re.compile(
    r"""^\s+|^Traceback\ \(most|^During\ handling\ of|^The\ above\ exception
        |^(?:Current\ )?[Tt]hread\ 0x|^Extension\ modules:""",
    re.VERBOSE,
)
"""Lines of a stack trace. All other lines of a trainer's log start with their level."""


def without_paths(text: str) -> str:
    """Return a text with absolute paths shortened to their last part: `…/model.safetensors`."""
    return PATH.sub(lambda path: f"…/{path['name']}", text)


def customer_lines(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a trainer's output without stack traces and server paths."""
    return (without_paths(line) for line in lines if line and not TRACE.match(line))
