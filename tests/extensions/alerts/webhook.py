"""A local HTTP receiver of notices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class Webhook:
    """A receiver that keeps the messages that it accepted, unless it fails with a status."""

    port: int = 0
    status: HTTPStatus = HTTPStatus.OK
    attempts: int = 0
    messages: list[dict[str, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The Apprise URL, with a secret."""
        return f"json://user:{SECRET}@127.0.0.1:{self.port}/{SECRET}"

    @property
    def titles(self) -> list[str]:
        return [message["title"] for message in self.messages]


SECRET = "secret-token-7391"


@contextmanager
def webhook(port: int = 0) -> Iterator[Webhook]:
    """Run a receiver on a port, or on a free one."""
    receiver = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.attempts += 1
            if receiver.status is HTTPStatus.OK:
                receiver.messages.append(json.loads(body))
            self.send_response(receiver.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    receiver.port = server.server_address[1]
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield receiver
    server.shutdown()
    server.server_close()
    thread.join()
