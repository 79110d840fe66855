"""The present load of this machine, for estimates of jobs that its CPU will train."""

from __future__ import annotations

import platform

import psutil


def load_of(host: str) -> float | None:
    """Processes that want a core, a mean of the last minute; None of another host than this."""
    return psutil.getloadavg()[0] if host == platform.node() else None
