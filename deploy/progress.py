"""Progress of a rebuild, as lines for a terminal or a log."""

from __future__ import annotations

import sys
import time

LINE_SECONDS = 5.0


class Spoken:
    """Prints how far a rebuild has got, every few seconds, to standard error."""

    def __init__(self) -> None:
        self._spoken_at = time.monotonic()

    def __call__(self, name: str, events: int, share: float) -> None:
        """Print a line if it is time for one."""
        if time.monotonic() - self._spoken_at > LINE_SECONDS:
            self._spoken_at = time.monotonic()
            print(f"{name}: {events:,} events folded ({share:.0%})", file=sys.stderr, flush=True)
