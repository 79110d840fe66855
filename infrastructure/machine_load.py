"""Load of this machine, for estimates of jobs on its CPU."""

from __future__ import annotations

import platform

import psutil


def load_of(host: str) -> float | None:
    """Mean number of runnable processes in the last minute; None if `host` is another machine."""
    return psutil.getloadavg()[0] if host == platform.node() else None
