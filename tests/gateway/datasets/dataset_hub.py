"""A local hub with the routes that huggingface_hub's client calls to read a dataset."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "4f1c2e9a7b3d5f60819a2b3c4d5e6f7081920a1b"
TOKEN = "hf_read"


@dataclass
class DatasetHub:
    """One repository, `acme/chats`, and the paths that clients requested."""

    files: dict[str, bytes] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    private: bool = False
    down: bool = False
    requested: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def dataset_hub() -> Iterator[DatasetHub]:
    """Run a hub on a free port."""
    hub = DatasetHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._serve(body=False)

        def do_GET(self) -> None:
            self._serve(body=True)

        def _serve(self, *, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requested.append(path)
            head, _, rest = path.partition(f"/datasets/acme/chats/resolve/{COMMIT}/")
            if hub.down:
                self._send(500, b"{}", body)
            elif hub.private and self.headers.get("authorization") != f"Bearer {TOKEN}":
                self._send(401, b"{}", body)
            elif path.startswith("/api/datasets/acme/chats"):
                self._send(200, json.dumps(_info(hub)).encode(), body)
            elif not head and rest in hub.files:
                self._send(200, hub.files[rest], body)
            else:
                self._send(404, b"{}", body, error="RepoNotFound")

        def _send(self, status: int, content: bytes, body: bool, error: str = "") -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.send_header("x-repo-commit", COMMIT)
            self.send_header("etag", f'"{hashlib.sha256(content).hexdigest()}"')
            if error:
                self.send_header("x-error-code", error)
            self.end_headers()
            if body:
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _info(hub: DatasetHub) -> dict[str, Any]:
    return {
        "id": "acme/chats",
        "sha": COMMIT,
        "private": hub.private,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "cardData": hub.card,
        "siblings": [
            {"rfilename": path, "size": len(content)} for path, content in hub.files.items()
        ],
    }
