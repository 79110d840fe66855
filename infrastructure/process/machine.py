"""The identity of the machine on which this process runs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PID_NAMESPACE = Path("/proc/self/ns/pid")


@cache
def machine_id() -> str:
    """Return an identity of the running kernel and of the namespace of this process's ID.

    Two processes with the same identity can look each other up by their IDs. A host name does not
    show that: cloned machines share it, and so do containers with the network of their host. Return
    the empty string if the system has no such identity.
    """
    try:
        return f"{BOOT_ID.read_text().strip()} {PID_NAMESPACE.readlink()}"
    except OSError:
        return ""
