"""`python -m deploy.run NAME` runs one process of EcoLink in the foreground.

The name is that of a role, or of a process with several roles.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from typing import NoReturn

import deploy.selection  # noqa: F401 - first
from deploy.group import Group, Member
from deploy.processes import (
    GROUPS,
    PROCESSES,
    grouped,
    metrics_place,
    separate_roles,
    settings_from,
    variables_of,
)
from deploy.schema import REVISION
from domain.core.event_format import NewerFormat
from infrastructure.extras import MissingExtra
from infrastructure.postgres.presence import EXIT_CODE, present
from infrastructure.postgres.schema_revision import await_revision
from infrastructure.process import tracing
from infrastructure.process.log_format import JsonLine, OneLine
from infrastructure.process.metrics import serve_metrics
from infrastructure.process.progress import watch
from infrastructure.process.role import Role
from infrastructure.process.secret_files import load_secret_files
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
    """Run the named roles until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m deploy.run", description=__doc__)
    parser.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help="role, process of several roles, or role=module:callable. Processes and roles: "
        f"{', '.join((*GROUPS, *PROCESSES))}",
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # until the process handles it
    load_secret_files()
    settings = Settings()
    try:
        roles = _roles(arguments.names, settings)
    except ValueError as error:
        parser.error(str(error))
    if not roles:
        _idle(arguments.names[0], settings)
    name, *others = grouped(roles, ())
    if others:
        parser.error(f"{', '.join(roles)} do not share a process; start one for each")
    if len(roles) == 1:  # the others of its process run elsewhere
        os.environ.update(variables_of(name, os.environ))
        settings = Settings()
    os.umask(PRIVATE_UMASK)
    set_up_logging(settings, name)
    try:
        tracing.start(name)
    except MissingExtra as error:
        sys.exit(f"Error: {error}")
    known = [role for role in roles if role in PROCESSES]
    if known:
        process = next((each for each in arguments.names if each in GROUPS), name)
        serve_metrics(settings, metrics_place(process, known))
    if len(roles) == 1:
        sys.exit(_run_alone(name, roles[name], settings))
    sys.exit(_run_group(name, roles))


def _roles(names: Sequence[str], settings: Settings) -> dict[str, str]:
    """Return the named roles and their callables. Raise ValueError if there is no such role.

    A process whose extensions are not selected has none.
    """
    separate, found = separate_roles(settings), {}
    for each in names:
        name, _, target = each.partition("=")
        if name in GROUPS:
            found |= {
                role: PROCESSES[role]
                for role in GROUPS[name]
                if role in PROCESSES and role not in separate
            }
        elif target or name in PROCESSES:
            found[name] = target or PROCESSES[name]
        else:
            known = ", ".join((*GROUPS, *PROCESSES))
            raise ValueError(f"unknown process {name!r}; choose one of {known}")
    if not found and any(GROUPS[name] for name in names):
        raise ValueError(f"ECOLINK_SEPARATE_ROLES leaves no role for {', '.join(names)}")
    return found


def _idle(process: str, settings: Settings) -> NoReturn:
    """Wait for SIGTERM, so that a container without a role stays healthy."""
    set_up_logging(settings, process)
    log.info("%s has no role, because no selected extension has one in it", process)
    watch(settings)
    signal.pause()
    sys.exit()


def _run_alone(name: str, target: str, settings: Settings) -> int:
    """Run the only role of this process. Return the exit status."""
    log.info("%s starts", name)
    try:
        if _recorded(name, settings):
            await_revision(settings, REVISION)
        watch(settings)  # a process that waits for a migration does not beat, so it is not ready
        _work(name, target, settings)
    except NewerFormat as error:
        log.critical("%s does not start: %s", name, error)
        return EXIT_CODE
    except Exception:
        log.critical("%s failed", name, exc_info=True)
        return 1
    log.info("%s ended", name)
    return 0


def _run_group(process: str, roles: Mapping[str, str]) -> int:
    """Run several roles, each with its own variables. Return the exit status."""
    variables = {name: variables_of(name, os.environ) for name in roles}
    settings = {name: settings_from(own) for name, own in variables.items()}
    members = [
        Member(Role(name, variables[name]), partial(_work, name, target, settings[name]))
        for name, target in roles.items()
    ]
    first = next(iter(roles))
    log.info("%s starts", process)
    try:
        if _recorded(first, settings[first]):
            await_revision(settings[first], REVISION)
    except NewerFormat as error:
        log.critical("%s does not start: %s", process, error)
        return EXIT_CODE
    watch(settings[first])
    status = Group(members).run()
    log.info("%s ended", process)
    return status


def _recorded(name: str, settings: Settings) -> bool:
    return name in PROCESSES and settings.database_url is not None


def _work(name: str, target: str, settings: Settings) -> None:
    module, _, function = target.partition(":")
    with present(settings, name) if _recorded(name, settings) else nullcontext():
        getattr(import_module(module), function)(settings)


if __name__ == "__main__":
    main()
