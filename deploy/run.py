"""`python -m deploy.run NAME`: one process of EcoLink, in the foreground."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from importlib import import_module

from deploy.processes import PROCESSES
from infrastructure.settings import Settings

log = logging.getLogger("deploy.run")


class OneLine(logging.Formatter):
    """One line for each record: UTC time, level, logger, message; a traceback is folded into it."""

    converter = time.gmtime
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The record without a line break in it."""
        return super().format(record).replace("\n", " ⏎ ")


def set_up_logging(level: str) -> None:
    """Send every logger's records to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine())
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
    set_up_logging(settings.log_level)
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
