"""The progress of an upgrade: the format in use, and the processes that hold it back."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

import psutil
import psycopg
from packaging.version import InvalidVersion, Version

from domain.core.event_format import FORMAT
from infrastructure.postgres.format_in_use import format_in_use, raise_format
from infrastructure.postgres.presence import FORGOTTEN_SECONDS, RunningProcess, running_processes
from infrastructure.process.code_version import package_version
from infrastructure.process.machine import machine_id


class OlderProcesses(Exception):
    """Processes of an older version run, so the upgrade cannot be finished."""

    def __init__(self, processes: list[RunningProcess]) -> None:
        named = "; ".join(map(str, processes))
        super().__init__(
            f"Older processes still run: {named}. Upgrade or stop them, then try again. A process "
            "that was killed counts as running for 30 s."
        )
        self.processes = processes


@dataclass(frozen=True)
class UpgradeStatus:
    """The format in use, and all running processes."""

    in_use: int
    processes: list[RunningProcess]

    @property
    def newest(self) -> int:
        """Newest format of this version and of all running processes."""
        return max([FORMAT, *(each.format for each in self.processes)])

    @property
    def older(self) -> list[RunningProcess]:
        """Processes that cannot read the newest format."""
        return [each for each in self.processes if each.format < self.newest]

    @property
    def versions(self) -> list[str]:
        """Versions of the running processes."""
        return sorted({each.version for each in self.processes})

    @property
    def unfinished(self) -> bool:
        """True if the format in use is not the newest one."""
        return self.in_use < self.newest


def upgrade_status(connection: psycopg.Connection[Any]) -> UpgradeStatus:
    """Return the progress of the upgrade. Raise NewerFormat if the format in use is newer."""
    return UpgradeStatus(format_in_use(connection), running_processes(connection))


def finish(connection: psycopg.Connection[Any], actor: str) -> bool:
    """Raise the format in use to this version's. Return False if it is in use already."""
    if format_in_use(connection) == FORMAT:
        return False
    if older := [each for each in _running(connection) if each.format < FORMAT]:
        raise OlderProcesses(older)
    raise_format(connection, actor)
    return True


def finish_if_alone(connection: psycopg.Connection[Any], actor: str) -> bool:
    """Like `finish`, but return False and change nothing if this is not the only machine.

    A process of another host that did not end properly counts for a day, because the host may have
    lost its power. Another machine with the same name as this one counts while its processes run.
    """
    elsewhere = [
        each
        for each in running_processes(connection, FORGOTTEN_SECONDS)
        if each.host != socket.gethostname()
    ]
    return not elsewhere and not _running(connection) and finish(connection, actor)


def newer_processes(connection: psycopg.Connection[Any]) -> list[RunningProcess]:
    """Return the running processes of a newer version, compared by formats if unknown."""
    found = connection.execute("SELECT to_regclass('public.processes')::text").fetchone()
    if found is None or next(iter(found)) is None:
        return []
    return [
        each
        for each in _running(connection)
        if each.format > FORMAT or _is_newer(each.version, package_version())
    ]


def _is_newer(version: str, other: str) -> bool:
    try:
        return Version(version) > Version(other)
    except InvalidVersion:  # such as "unknown"
        return False


def _running(connection: psycopg.Connection[Any]) -> list[RunningProcess]:
    """Return the running processes without those that were killed on this machine."""
    own = machine_id()
    return [
        each
        for each in running_processes(connection)
        if not own or each.machine != own or psutil.pid_exists(each.pid)
    ]
