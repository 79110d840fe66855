"""A hub with the routes that huggingface_hub's client calls to upload models and read datasets."""

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
from urllib.parse import unquote, urlsplit

COMMIT = "4f1c2e9a7b3d5f60819a2b3c4d5e6f7081920a1b"
"""Commit of every dataset."""

READ_TOKEN, WRITE_TOKEN = "hf_read", "hf_write"
MODELS = "/api/models/"
LARGE_FILES = (".safetensors", ".gguf")


@dataclass
class Repository:
    """The files of a repository at its last commit."""

    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False
    card: dict[str, Any] = field(default_factory=dict)
    """Metadata of a dataset, which may name its configs."""


@dataclass
class Hub:
    """Repositories by name, and what clients sent."""

    models: dict[str, Repository] = field(default_factory=dict)
    datasets: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    """Large files by hash."""
    uploads: list[str] = field(default_factory=list)
    """Hashes of the large files that clients uploaded."""
    requested: list[str] = field(default_factory=list)
    """Paths that clients read."""
    failures: list[int] = field(default_factory=list)
    """Statuses of the next responses, except those to uploads of large files."""
    url: str = ""


@contextmanager
def local_hub() -> Iterator[Hub]:
    """Run a hub on a free port."""
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._read()

    def do_GET(self) -> None:
        self._read()

    def do_POST(self) -> None:
        body = self._body()
        if self._fails():
            return
        if self._token != WRITE_TOKEN:
            self._send(401, {"error": "Invalid username or password."})
        else:
            self._write(body)

    def do_PUT(self) -> None:
        oid, content = self.path.rpartition("/")[2], self._body()
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.objects[oid] = content
        self.hub.uploads.append(oid)
        self._send(200, {})

    @property
    def _token(self) -> str:
        return (self.headers.get("authorization") or "").removeprefix("Bearer ")

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _fails(self) -> bool:
        """Send the next failure, if there is one."""
        if self.hub.failures:
            self._send(self.hub.failures.pop(0), {"error": "The hub is down."})
            return True
        return False

    def _read(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requested.append(path)
        if self._fails():
            return
        if path.startswith(MODELS):
            self._send_model(path.removeprefix(MODELS))
            return
        _, _, rest = path.partition("/datasets/")
        name = "/".join(rest.split("/")[:2])
        found, resolved = self.hub.datasets.get(name), f"{name}/resolve/{COMMIT}/"
        if found is not None and found.private and self._token not in (READ_TOKEN, WRITE_TOKEN):
            self._send(401, {})
        elif found is not None and path.startswith("/api/"):
            self._send(200, _described(name, found))
        elif found is not None and (file := rest.removeprefix(resolved)) in found.files:
            self._send(200, found.files[file])
        else:
            self._send(404, {}, code="RepoNotFound")

    def _send_model(self, name: str) -> None:
        found = self.hub.models.get(name)
        if found is None or (found.private and self._token not in (READ_TOKEN, WRITE_TOKEN)):
            self._send(404, {}, code="RepoNotFound")
        else:
            self._send(200, _described(name, found))

    def _write(self, body: bytes) -> None:
        path = self.path
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif "/preupload/" in path:
            self._send(200, {"files": [_mode(each["path"]) for each in json.loads(body)["files"]]})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [self._upload_of(each) for each in json.loads(body)["objects"]]
            self._send(200, {"transfer": "basic", "objects": objects})
        elif path == "/api/validate-yaml":
            self._send(200, {"warnings": [], "errors": []})
        elif "/commit/" in path:
            self._commit(path.split(MODELS)[1].partition("/commit/")[0], body)
        else:
            self._send(404, {"error": f"no route {path}"})

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        known = name in self.hub.models
        private = wanted.get("private", wanted.get("visibility") == "private")
        self.hub.models.setdefault(name, Repository(private=private))
        self._send(409 if known else 200, {"url": f"{self.hub.url}/{name}"})

    def _upload_of(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Return a large file, with the address for its upload unless the hub has it."""
        oid = wanted["oid"]
        if oid in self.hub.objects:
            return wanted
        return wanted | {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{oid}"}}}

    def _commit(self, name: str, body: bytes) -> None:
        files = self.hub.models[name].files
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        oid = hashlib.sha1(body).hexdigest()
        url = f"{self.hub.url}/{name}/commit/{oid}"
        self._send(200, {"success": True, "commitOid": oid, "commitUrl": url})

    def _send(self, status: int, answer: bytes | dict[str, Any], code: str = "") -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.send_header("x-repo-commit", COMMIT)
        self.send_header("etag", f'"{hashlib.sha256(content).hexdigest()}"')
        if isinstance(answer, dict) and "error" in answer:
            self.send_header("x-error-message", answer["error"])
        if code:
            self.send_header("x-error-code", code)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _mode(path: str) -> dict[str, Any]:
    """Return the way in which a client uploads a file."""
    mode = "lfs" if path.endswith(LARGE_FILES) else "regular"
    return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": None}


def _described(name: str, found: Repository) -> dict[str, Any]:
    return {
        "id": name,
        "sha": COMMIT,
        "private": found.private,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "cardData": found.card,
        "siblings": [
            {"rfilename": path, "size": len(content)} for path, content in found.files.items()
        ],
    }
