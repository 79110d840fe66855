"""`python -m deploy.run NAME` runs one process of EcoLink in the foreground."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module

from deploy.processes import PLACES, PROCESSES
from deploy.schema import REVISION
from domain.core.event_format import NewerFormat
from infrastructure import tracing
from infrastructure.log_format import JsonLine, OneLine
from infrastructure.metrics import serve_metrics
from infrastructure.presence import EXIT_CODE, present
from infrastructure.progress import watch
from infrastructure.schema_revision import await_revision
from infrastructure.secret_files import load_secret_files
from infrastructure.settings import Settings

log = logging.getLogger("deploy.run")

PRIVATE_UMASK = 0o077
"""Umask that makes files with customer data readable only by their user."""

WINDOW_SECONDS, MOST_LINES, MOST_WARNINGS = 10.0, 2_000, 50
"""Limits for each line of code in a window, so that a flood of records does not push out others."""


class Throttle(logging.Filter):
    """A filter that limits the records of each line of code in a window.

    It later reports the number of dropped records.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._windows: dict[tuple[str, int], list[float]] = {}  # start and records

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True if the record should be written."""
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


def set_up_logging(settings: Settings, process: str) -> None:
    """Send all log records to standard error, without the URLs of requests to other servers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine(process) if settings.log_format == "json" else OneLine())
    handler.addFilter(Throttle())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs URLs, which may have a token


def main() -> None:
    """Run the named process until it receives SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m deploy.run", description=__doc__)
    parser.add_argument("name", help=f"one of: {', '.join(PROCESSES)}")
    parser.add_argument(
        "target", nargs="?", help="module:callable, for a process that is not in the list"
    )
    arguments = parser.parse_args()
    target = arguments.target or PROCESSES.get(arguments.name)
    if target is None:
        parser.error(f"unknown process {arguments.name!r}; choose one of {', '.join(PROCESSES)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # until the process handles it
    load_secret_files()
    settings = Settings()
    os.umask(PRIVATE_UMASK)
    set_up_logging(settings, arguments.name)
    tracing.start(arguments.name)
    if arguments.name in PROCESSES:
        serve_metrics(settings, PLACES[arguments.name])
    log.info("%s starts", arguments.name)
    recorded = arguments.name in PROCESSES and settings.database_url is not None
    try:
        if recorded:
            await_revision(settings, REVISION)
        watch(settings)  # a process that waits for a migration does not beat, so it is not ready
        with present(settings, arguments.name) if recorded else nullcontext():
            module, _, function = target.partition(":")
            getattr(import_module(module), function)(settings)
    except NewerFormat as error:
        log.critical("%s does not start: %s", arguments.name, error)
        sys.exit(EXIT_CODE)
    except Exception:
        log.critical("%s failed", arguments.name, exc_info=True)
        sys.exit(1)
    log.info("%s ended", arguments.name)


if __name__ == "__main__":
    main()
