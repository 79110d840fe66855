"""Real processes of `make bench-scale`, and what they use."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from deploy.processes import environment
from infrastructure.postgres.store import Connection, scalar
from infrastructure.settings import Settings

MIB = 1024**2
STOP_SECONDS = 60.0


class Process:
    """A Python process with the settings in its environment. Its log is a file."""

    def __init__(self, settings: Settings, name: str, arguments: Sequence[str], folder: Path):
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as log:
            self.started = subprocess.Popen(
                [sys.executable, *arguments],
                env=os.environ | environment(settings),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.process = psutil.Process(self.started.pid)

    @classmethod
    def of_platform(cls, settings: Settings, name: str, folder: Path) -> Process:
        """Start a process of EcoLink."""
        return cls(settings, name, ["-m", "deploy.run", name], folder)

    def ask(self, line: str) -> str:
        """Write a line to the process, and return the next line of its output.

        Raise RuntimeError if the process has ended.
        """
        assert self.started.stdin is not None
        assert self.started.stdout is not None
        with suppress(BrokenPipeError):
            self.started.stdin.write(line + "\n")
            self.started.stdin.flush()
        answer = self.started.stdout.readline()
        if not answer:
            raise RuntimeError(f"The process {self.name} ended. See its log:\n{self.tail}")
        return answer

    @property
    def tail(self) -> str:
        """The end of the process's log."""
        return self.log.read_text()[-4000:]

    def require_running(self) -> None:
        """Raise RuntimeError if the process has ended."""
        if self.started.poll() is not None:
            raise RuntimeError(f"The process {self.name} ended. See its log:\n{self.tail}")

    def stop(self) -> None:
        """End the process."""
        self.started.terminate()
        self.started.communicate(timeout=STOP_SECONDS)


def memory_mib(processes: Iterable[psutil.Process]) -> float:
    """Return the memory of processes together. A page that several share counts once."""
    total = 0
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            total += each.memory_full_info().pss
    return total / MIB


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """Return the CPU time that processes have used together."""
    seconds = 0.0
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            seconds += times.user + times.system
    return seconds


class Servers:
    """The processes of PostgreSQL and NATS, if they run on this machine."""

    def __init__(self, owner: Connection) -> None:
        self._postmaster = self._parent(scalar(owner, "SELECT pg_backend_pid()"))

    @staticmethod
    def _parent(pid: int) -> psutil.Process | None:
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(pid).parent()
            return parent if parent is not None and parent.name() == "postgres" else None
        return None

    @property
    def postgres(self) -> list[psutil.Process]:
        """The server and its backends."""
        if self._postmaster is None:
            return []
        return [self._postmaster, *self._postmaster.children()]

    @property
    def nats(self) -> list[psutil.Process]:
        """The server beside PostgreSQL under the same supervisor."""
        supervisor = None if self._postmaster is None else self._postmaster.parent()
        children = [] if supervisor is None else supervisor.children()
        return [each for each in children if each.name() == "nats-server"]


class CpuShare:
    """CPU time of processes since the start of a measurement."""

    def __init__(self, processes: Iterable[psutil.Process]) -> None:
        self._processes = list(processes)
        self._began, self._used = time.perf_counter(), cpu_seconds(self._processes)

    @property
    def seconds(self) -> float:
        """CPU time that the processes used."""
        return cpu_seconds(self._processes) - self._used

    @property
    def cores(self) -> float:
        """Cores that the processes used on average."""
        return self.seconds / max(1e-9, time.perf_counter() - self._began)
