"""A TCP forwarder, through which nodes of a test cluster reach a server on loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread


@contextmanager
def forwarding(host: str, port: int) -> Iterator[None]:
    """Forward connections to `host:port` to the same port of loopback during the block."""
    with socket.create_server((host, port)) as listener:
        accepting = Thread(target=_accept, args=(listener, port), daemon=True)
        accepting.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread, which keeps the port in use
            accepting.join()


def _accept(listener: socket.socket, port: int) -> None:
    with suppress(OSError):  # the listener was closed
        while True:
            near, _ = listener.accept()
            Thread(target=_serve, args=(near, port), daemon=True).start()


def _serve(near: socket.socket, port: int) -> None:
    with near, suppress(OSError), socket.create_connection(("127.0.0.1", port)) as far:
        back = Thread(target=_copy, args=(far, near), daemon=True)
        back.start()
        _copy(near, far)
        back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
