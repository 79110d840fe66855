"""The resident memory of a process, by proc(5)."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil


def reset_peak(process: psutil.Process) -> int:
    """Set the peak of a process to its current memory, and return it in bytes.

    The kernel reclaims pages of libraries, so the current memory may be far below an older peak.
    """
    with suppress(OSError):  # not every kernel supports this; the older peak then stays
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")
    return peak_bytes(process)


def peak_bytes(process: psutil.Process) -> int:
    """Return the largest memory of a process since its start or the last reset, in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
