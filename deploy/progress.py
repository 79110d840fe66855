"""Progress of a rebuild, printed to standard error."""

from __future__ import annotations

import sys
import time

LINE_SECONDS = 5.0


class RebuildProgress:
    """A printer of the progress of a rebuild, with a line every few seconds."""

    def __init__(self) -> None:
        self._printed_at = time.monotonic()

    def __call__(self, name: str, events: int, share: float) -> None:
        if time.monotonic() - self._printed_at > LINE_SECONDS:
            self._printed_at = time.monotonic()
            print(f"{name}: {events:,} events folded ({share:.0%})", file=sys.stderr, flush=True)
