"""The load of this machine, from which EcoLink estimates jobs on its CPU."""

from __future__ import annotations

import platform

import psutil


def load_of(host: str) -> float | None:
    """Return the one-minute load average, or None if `host` is not this machine."""
    return psutil.getloadavg()[0] if host == platform.node() else None
