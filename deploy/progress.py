"""Progress of a rebuild, printed to standard error."""

from __future__ import annotations

import sys
import time

LINE_SECONDS = 5.0


class RebuildProgress:
    """A printer of the progress of a rebuild, with a line every few seconds."""

    def __init__(self) -> None:
        self._printed_at = time.monotonic()

    def __call__(self, position: int, last_event: int) -> None:
        if time.monotonic() - self._printed_at > LINE_SECONDS:
            self._printed_at = time.monotonic()
            share = position / max(last_event, 1)
            print(f"rebuilding read models: {share:.0%}", file=sys.stderr, flush=True)
