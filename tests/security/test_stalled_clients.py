"""Clients that hold connections neither stop the gateway for others nor keep their connections."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx
import psutil
import pytest

from infrastructure.limits import LIMITS
from infrastructure.postgres.store import open_log
from infrastructure.settings import Settings
from tests.builders.platform import Person, Platform
from tests.gateway.conftest import MEBIBYTE, running_gateway
from tests.polling import eventually
from tests.process_memory import peak_bytes, reset_peak
from tests.projecting import projecting
from tests.services.datasets.uploads import VALID

CLIENTS = 64
EVENTS = 400
WAIT_SECONDS = 300.0  # generous: the keep-alive of a WebSocket takes up to 40 s
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
BODY = "Content-Length: 1000000\r\n"
STREAM, NATIVE, FORM = "GET /api/events/stream", "POST /api/datasets?name=a", "POST /v1/files"
MULTIPART = "Content-Type: multipart/form-data; boundary=b\r\n"
FIRST_PART = '--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'


class Stalled:
    """A client that sends a head, and then at most single bytes of a body. It reads nothing."""

    def __init__(self, url: str, request: str, headers: str, body: str = "") -> None:
        target = httpx.URL(url)
        self.sends_body = request.startswith("POST")
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect((target.host, target.port))
        self.socket.setblocking(False)
        self.socket.sendall(f"{request} HTTP/1.1\r\nHost: x\r\n{headers}\r\n{body}".encode())

    def trickle(self) -> None:
        """Send one byte of the body. A client that reads nothing may not notice the end."""
        if self.sends_body:
            with suppress(OSError):
                self.socket.send(b"x")


def connections(process: psutil.Process, url: str) -> int:
    """Return the number of open connections of a gateway with its clients."""
    open_ones = [
        each for each in process.net_connections("tcp") if each.status == psutil.CONN_ESTABLISHED
    ]
    return sum(each.laddr[1] == httpx.URL(url).port for each in open_ones)


@contextmanager
def stalled(url: str, people: list[Person]) -> Iterator[list[Stalled]]:
    """Yield clients that stall: without a key, of one account, and of all accounts."""
    key = [f"Authorization: Bearer {each.key}\r\n" for each in people]
    clients = [
        *(Stalled(url, STREAM, UPGRADE + key[0]) for _ in range(CLIENTS)),
        *(Stalled(url, STREAM, UPGRADE) for _ in range(8)),
        *(Stalled(url, NATIVE, BODY + key[n % len(key)]) for n in range(CLIENTS // 2)),
        *(
            Stalled(url, FORM, BODY + MULTIPART + key[n % len(key)], FIRST_PART)
            for n in range(CLIENTS // 2)
        ),
        *(Stalled(url, NATIVE, BODY) for _ in range(8)),
    ]
    with ExitStack() as stack:
        for each in clients:
            stack.enter_context(each.socket)
        yield clients


@pytest.mark.full
def test_stalled_clients_are_ended_while_others_are_served(settings: Settings) -> None:
    with open_log(settings) as log, projecting(settings), running_gateway(settings) as gateway:
        platform = Platform(settings, log)
        attackers = [platform.person() for _ in range(CLIENTS // LIMITS["uploads"].default + 1)]
        for n in range(EVENTS):
            platform.credit(attackers[0], n + 1)
        other = platform.person()
        platform.project()
        before = reset_peak(gateway.process)
        with (
            stalled(gateway.url, attackers) as clients,
            httpx.Client(base_url=gateway.url, headers=other.headers, timeout=60) as client,
        ):

            def uploaded() -> bool:
                answer = client.post("/api/datasets?name=other", content=VALID)
                assert answer.status_code in (202, 429)
                return answer.status_code == 202

            def all_ended() -> bool:
                assert client.get("/api/account").status_code == 200
                for each in clients:
                    each.trickle()
                return connections(gateway.process, gateway.url) <= 1  # that of `client`

            assert not all_ended()
            eventually(uploaded, WAIT_SECONDS)
            eventually(all_ended, WAIT_SECONDS)
        grown = peak_bytes(gateway.process) - before
        print(f"memory of the gateway grew by {grown // MEBIBYTE} MiB")
        assert grown < 64 * MEBIBYTE
        eventually(lambda: len(platform.artifacts.list("uploads")) == 1)  # only that of `other`
