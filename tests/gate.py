"""A TCP proxy in front of a server, which a test closes or cuts."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

CHUNK_BYTES = 65_536
REQUEST = re.compile(rb"(?m)^(GET|PUT|POST|HEAD|DELETE) (\S+) HTTP/1\.1\r\n")
RANGE = re.compile(rb"(?mi)^range: (\S+)\r\n")


class Gate:
    """A proxy on loopback. Clients find a closed gate as a port on which no server listens.

    `requests` lists the method and path of each request, with the range of a download.
    """

    def __init__(self, port: int) -> None:
        self._target, self.port = port, 0
        self._listener: socket.socket | None = None
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._cut_after: int | None = None
        self.requests: list[str] = []
        self.on_request: Callable[[str], None] = lambda _: None

    @property
    def url(self) -> str:
        """URL of the gate."""
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        """Listen, on the same port as before."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self.port, self._listener = listener.getsockname()[1], listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def close(self) -> None:
        """Refuse connections, and end those that exist."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            connections, self._connections = self._connections, set()
        for each in connections:
            _end(each)

    def turn_to(self, port: int) -> None:
        """Pass new connections to another port. The others stay."""
        self._target = port

    def cut_next_after(self, count: int) -> None:
        """End the next connection that has returned this number of bytes."""
        self._cut_after = count

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._connections |= {client, server}
            for pump in (self._send, self._return):
                threading.Thread(target=pump, args=(client, server), daemon=True).start()

    def _send(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while chunk := client.recv(CHUNK_BYTES):
                if (found := REQUEST.match(chunk)) is not None:
                    wanted = RANGE.search(chunk)
                    request = " ".join(
                        each.decode()
                        for each in (*found.groups(), *(wanted.groups() if wanted else ()))
                    )
                    self.requests.append(request)
                    self.on_request(request)
                server.sendall(chunk)
        _end(client, server)

    def _return(self, client: socket.socket, server: socket.socket) -> None:
        returned = 0
        with suppress(OSError):
            while chunk := server.recv(CHUNK_BYTES):
                returned += len(chunk)
                if self._cut_after is not None and returned > self._cut_after:
                    self._cut_after = None
                    break
                client.sendall(chunk)
        _end(client, server)


def _end(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


@contextmanager
def gate_to(port: int) -> Iterator[Gate]:
    """Run an open gate to a port on loopback."""
    gate = Gate(port)
    gate.open()
    try:
        yield gate
    finally:
        gate.close()
