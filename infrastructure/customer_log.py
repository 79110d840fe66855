"""Text of trainers as customers may see it: no traces, and nothing of the server's file system."""

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
"""Lines of a stack trace. Each line of a trainer's own log begins with its level."""


def without_paths(text: str) -> str:
    """Text with each absolute path cut to its last part: `…/adapter_model.safetensors`."""
    return PATH.sub(lambda path: f"…/{path['name']}", text)


def customer_lines(lines: Iterable[str]) -> Iterator[str]:
    """Those lines of a trainer's output that are no stack trace, without the server's paths."""
    return (without_paths(line) for line in lines if line and not TRACE.match(line))
