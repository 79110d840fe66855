"""Progress of the stages of a backup or restore, on a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress as Bars

from extensions.backup.database import Progress

T = TypeVar("T")


class Stages:
    """The stages of one command, with a progress bar each, and their durations."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self.seconds: dict[str, float] = {}
        """Duration of each completed stage."""

    @contextmanager
    def stage(self, text: str) -> Iterator[Progress]:
        """Show a stage during the block. Yield a function that takes its progress."""
        began, console = time.monotonic(), self._console
        with Bars(console=console, transient=True, disable=not console.is_terminal) as bars:
            task = bars.add_task(text, total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)
        self.seconds[text] = time.monotonic() - began


def counted(items: Sequence[T], progress: Progress) -> Iterator[T]:
    """Yield the items, and report the progress after each."""
    for number, item in enumerate(items, start=1):
        yield item
        progress(number, len(items))
