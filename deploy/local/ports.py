"""Free TCP ports for the embedded servers."""

from __future__ import annotations

import random
import socket
from pathlib import Path

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST = 20_000
TRIES = 200


def candidates() -> range:
    """Return candidate ports below the kernel's range for outgoing connections.

    Inside that range, the kernel can assign a stopped server's port to a client that reconnects to
    the server. The server could then not start again.
    """
    return range(LOWEST, max(LOWEST + 1000, int(RANGE.read_text().split()[0]) - 1))


def free_port(preferred: int = 0, host: str = "127.0.0.1") -> int:
    """Return a free port, which is the preferred one if possible (0: no preference)."""
    if preferred and is_free(host, preferred):
        return preferred
    ports = candidates()
    for port in random.sample(ports, min(TRIES, len(ports))):
        if is_free(host, port):
            return port
    raise OSError(
        f"There is no free port between {ports[0]} and {ports[-1]} on {host}. Free one, or set "
        "another port."
    )


def is_free(host: str, port: int) -> bool:
    """Return True if a server can listen on the port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True
