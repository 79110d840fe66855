"""A name server that changes its answer, and one request with the system's resolver.

Run it as root in namespaces of its own: `unshare --mount --net python -m
tests.infrastructure.rebinding <client> <file>`. It prints the address that the client reached at
each of two requests, or `refused`. Only 127.0.0.2 is a permitted address.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from itertools import chain, repeat
from pathlib import Path

import httpx

from domain.core.errors import DomainError
from domain.core.target import TargetPolicy, parsed_networks
from infrastructure.http.guarded import Refused
from tests.extension_modules import extension_modules

POLICY = TargetPolicy(parsed_networks("127.0.0.2/32"), http=True)
PORT, NAME = 8080, "rebind.test"
PERMITTED, PRIVATE = "127.0.0.2", "127.0.0.3"
IPV4 = 1


def serve_names(answers: Iterator[str]) -> None:
    """Answer each question for an IPv4 address with the next one, and others with nothing."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))

    def run() -> None:
        while True:
            message, client = server.recvfrom(512)
            end = message.index(b"\0", 12) + 5
            (kind,) = struct.unpack("!H", message[end - 4 : end - 2])
            found = [next(answers)] if kind == IPV4 else []
            header = message[:2] + struct.pack("!5H", 0x8180, 1, len(found), 0, 0)
            records = [
                struct.pack("!3HIH", 0xC00C, IPV4, 1, 0, 4) + socket.inet_aton(each)
                for each in found
            ]
            server.sendto(b"".join([header, message[12:end], *records]), client)

    threading.Thread(target=run, daemon=True).start()


def serve_http(address: str, reached: list[str]) -> None:
    """Note each connection to an address."""
    server = socket.create_server((address, PORT))

    def run() -> None:
        while True:
            connection, _ = server.accept()
            reached.append(address)
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            connection.close()

    threading.Thread(target=run, daemon=True).start()


CLIENTS: dict[str, Callable[[str], Awaitable[None]]] = {
    each.client.__name__: each.client for each in extension_modules("rebinding")
}


def main(client: str, file: Path) -> None:
    """Send two requests, and print the reached addresses."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    file.write_text("nameserver 127.0.0.1\noptions timeout:5\n")
    subprocess.run(["mount", "--bind", file, "/etc/resolv.conf"], check=True)
    serve_names(chain([PERMITTED], repeat(PRIVATE)))
    reached: list[str] = []
    for address in (PERMITTED, PRIVATE):
        serve_http(address, reached)
    for _ in range(2):
        before = len(reached)
        try:
            asyncio.run(asyncio.wait_for(CLIENTS[client](f"http://{NAME}:{PORT}/x"), 60))
        except (Refused, DomainError, httpx.HTTPError) as error:
            reached.insert(before, "refused" if PRIVATE not in str(error) else str(error))
        print(" ".join(reached[before:]))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
