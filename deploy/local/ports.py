"""Free TCP ports for the embedded servers."""

from __future__ import annotations

import random
import socket
from collections import deque
from pathlib import Path

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST = 20_000
TRIES = 200
CLAIMS = 100
"""Ports that a process claims at once. By the next claim, the first one's server has started."""

_claims: deque[socket.socket] = deque(maxlen=CLAIMS)

_reserved: dict[int, socket.socket] = {}


def candidates() -> range:
    """Return candidate ports below the kernel's range for outgoing connections.

    Inside that range, the kernel can assign a stopped server's port to a client that reconnects to
    the server. The server could then not start again.
    """
    return range(LOWEST, max(LOWEST + 1000, int(RANGE.read_text().split()[0]) - 1))


def free_port(preferred: int = 0, host: str = "127.0.0.1") -> int:
    """Return a free port, which is the preferred one if possible (0: no preference).

    Without a preference, no other call of this or another process returns the same port while its
    server starts.
    """
    if preferred and is_free(host, preferred):
        return preferred
    ports = candidates()
    for port in random.sample(ports, min(TRIES, len(ports))):
        if claim(host, port):
            return port
    raise OSError(
        f"There is no free port between {ports[0]} and {ports[-1]} on {host}. Free one, or set "
        "another port."
    )


def claim(host: str, port: int) -> bool:
    """Bind a socket to a free port until the process ends, or until `CLAIMS` later claims.

    A second claim fails. A server can listen on the port, because it binds with SO_REUSEADDR and
    the claim does not listen.
    """
    holder = _socket(host)
    try:
        holder.bind((host, port))
    except OSError:
        holder.close()
        return False
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _claims.append(holder)
    return True


def reserve(host: str, port: int) -> bool:
    """Keep other installations from a port until this process ends. Return False if it is taken.

    The server that listens on it starts seconds later. Until then, the port is free for others.
    """
    if not is_free(host, port):
        return False
    if port not in _reserved:
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind(f"\0ecolink-port-{port}")  # a name that the kernel frees with the process
        except OSError:
            lock.close()
            return False
        _reserved[port] = lock
    return True


def is_free(host: str, port: int) -> bool:
    """Return True if a server can listen on the port."""
    with _socket(host) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def _socket(host: str) -> socket.socket:
    """Return a TCP socket of the family of the address."""
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
