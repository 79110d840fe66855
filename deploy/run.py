"""`python -m deploy.run NAME`: one process of EcoLink, in the foreground."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module

from deploy.processes import PROCESSES
from infrastructure.progress import watch
from infrastructure.settings import Settings

log = logging.getLogger("deploy.run")

PRIVATE_UMASK = 0o077
"""What processes store of customers is for their own user alone, whatever the folder allows."""

WINDOW_SECONDS, MOST_LINES, MOST_WARNINGS = 10.0, 2_000, 50
"""What one line of code may log within a window: a flood must not rotate the rest away."""

ESCAPED = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
"""Control characters, which could rewrite what a terminal shows of a log."""


class OneLine(logging.Formatter):
    """One line for each record: UTC time, level, logger, message; a traceback is folded into it."""

    converter = time.gmtime
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The record without a line break or another control character in it."""
        return super().format(record).replace("\n", " ⏎ ").translate(ESCAPED)


class Throttle(logging.Filter):
    """Lets one line of code log so often in a window; the rest is counted and reported later."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._windows: dict[tuple[str, int], list[float]] = {}  # began at, records

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True for a record that is to be written."""
        most = MOST_LINES if record.levelno < logging.WARNING else MOST_WARNINGS
        now, place = self._clock(), (record.pathname, record.lineno)
        window = self._windows.get(place)
        if window is None or now - window[0] >= WINDOW_SECONDS:
            dropped = 0 if window is None else max(0, int(window[1]) - most)
            self._windows[place] = [now, 1]
            if dropped:
                record.msg = f"{record.getMessage()} [{dropped} more like this were not logged]"
                record.args = None
            return True
        window[1] += 1
        return window[1] <= most


def set_up_logging(level: str) -> None:
    """Send every logger's records to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine())
    handler.addFilter(Throttle())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)


def main() -> None:
    """Look up the process and run it until it is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m deploy.run", description=__doc__)
    parser.add_argument("name", help=f"one of: {', '.join(PROCESSES)}")
    parser.add_argument("target", nargs="?", help="module:callable, for a process not declared")
    arguments = parser.parse_args()
    target = arguments.target or PROCESSES.get(arguments.name)
    if target is None:
        parser.error(f"there is no process {arguments.name!r}")
    settings = Settings()
    os.umask(PRIVATE_UMASK)
    set_up_logging(settings.log_level)
    watch(settings)
    module, _, function = target.partition(":")
    log.info("%s starts", arguments.name)
    try:
        getattr(import_module(module), function)(settings)
    except Exception:
        log.critical("%s failed", arguments.name, exc_info=True)
        sys.exit(1)
    log.info("%s ended", arguments.name)


if __name__ == "__main__":
    main()
