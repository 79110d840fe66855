"""Identification of processes across restarts, although the system reuses process IDs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
POLL_SECONDS = 0.02


def birth(pid: int) -> str | None:
    """Return boot and clock tick of a process's start, which no clock shifts; None if it ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    start_ticks = stat.rpartition(")")[2].split()[19]
    return f"{BOOT_ID.read_text()[:8]}:{start_ticks}"


def living(pid: int | None, born: str | None) -> psutil.Process | None:
    """Return the process with this ID and birth, or None if it has ended."""
    if pid is None or born is None or birth(pid) != born:
        return None
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None
    return process if lives(process) else None


def lives(process: psutil.Process) -> bool:
    """Return True if a process is running and is not a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_ended(processes: Iterable[psutil.Process], timeout: float) -> list[psutil.Process]:
    """Wait up to `timeout` seconds for processes to end. Return those that are still running."""
    deadline = time.monotonic() + timeout
    left = [process for process in processes if lives(process)]
    while left and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        left = [process for process in left if lives(process)]
    return left


def kill_groups(processes: Iterable[psutil.Process]) -> None:
    """Kill the process group of each process. Wait for the group leaders to end."""
    ended = list(processes)
    for process in ended:
        with suppress(ProcessLookupError):
            os.killpg(os.getpgid(process.pid), signal.SIGKILL)
    wait_ended(ended, timeout=10)
