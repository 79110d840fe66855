"""A local hub with the routes that huggingface_hub's client calls for an upload."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_write"
SAMPLE_IS_BINARY = (".safetensors", ".gguf")


@dataclass
class Hub:
    """The repositories of a hub, and what its clients sent."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: list[str] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)
    """Statuses of the next responses to POST."""
    url: str = ""


@contextmanager
def fake_hub() -> Iterator[Hub]:
    """Run a hub on a free port."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if hub.failures:
                self._send(hub.failures.pop(0), {"error": "The hub is down."})
            elif self.headers.get("authorization") != f"Bearer {TOKEN}":
                self._send(401, {"error": "Invalid username or password."})
            else:
                self._post(body)

        def do_PUT(self) -> None:
            oid = self.path.rpartition("/")[2]
            content = self.rfile.read(int(self.headers["content-length"]))
            assert hashlib.sha256(content).hexdigest() == oid
            hub.objects[oid] = content
            hub.uploads.append(oid)
            self._send(200, {})

        def _post(self, body: bytes) -> None:
            path = self.path
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('organization') or 'me'}/{asked['name']}"
                known = name in hub.repositories
                hub.repositories.setdefault(name, {})
                if not known:
                    private = asked.get("private", asked.get("visibility") == "private")
                    hub.private[name] = private
                self._send(409 if known else 200, {"url": f"{hub.url}/{name}"})
            elif "/preupload/" in path:
                files = json.loads(body)["files"]
                modes = [
                    {
                        "path": each["path"],
                        "uploadMode": "lfs"
                        if each["path"].endswith(SAMPLE_IS_BINARY)
                        else "regular",
                        "shouldIgnore": False,
                        "oid": None,
                    }
                    for each in files
                ]
                self._send(200, {"files": modes})
            elif path.endswith("/info/lfs/objects/batch"):
                self._send(200, {"transfer": "basic", "objects": self._batch(json.loads(body))})
            elif path == "/api/validate-yaml":
                self._send(200, {"warnings": [], "errors": []})
            elif "/commit/" in path:
                self._commit(path.split("/api/models/")[1].partition("/commit/")[0], body)
            else:
                self._send(404, {"error": f"no route {path}"})

        def _batch(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
            return [
                each
                if each["oid"] in hub.objects
                else each | {"actions": {"upload": {"href": f"{hub.url}/lfs/{each['oid']}"}}}
                for each in asked["objects"]
            ]

        def _commit(self, name: str, body: bytes) -> None:
            files = hub.repositories[name]
            for line in body.splitlines():
                item = json.loads(line)
                value = item["value"]
                if item["key"] == "file":
                    assert value["encoding"] == "base64"
                    files[value["path"]] = base64.b64decode(value["content"])
                elif item["key"] == "lfsFile":
                    files[value["path"]] = hub.objects[value["oid"]]
            oid = hashlib.sha1(body).hexdigest()
            url = f"{hub.url}/{name}/commit/{oid}"
            self._send(200, {"success": True, "commitOid": oid, "commitUrl": url})

        def _send(self, status: int, answer: Any) -> None:
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            if status >= 400 and "error" in answer:
                self.send_header("x-error-message", answer["error"])
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
