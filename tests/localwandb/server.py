"""Runs of Weights & Biases in memory: GraphQL, the file stream and uploaded files."""

from __future__ import annotations

import base64
import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "local" + "0" * 35
ENTITY = "ada"

RunKey = tuple[str, str, str]
"""Entity, project and name of a run."""


@dataclass
class Run:
    """A run as the server stores it."""

    display_name: str | None = None
    tags: list[str] = field(default_factory=list)
    state: str = "running"
    config: dict[str, Any] = field(default_factory=dict)
    lines: dict[int, dict[str, Any]] = field(default_factory=dict)
    """History by number of the line."""
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        """The lines of the history in order, without a gap."""
        assert sorted(self.lines) == list(range(len(self.lines)))
        return [self.lines[number] for number in sorted(self.lines)]


@dataclass
class LocalWandb:
    """The state of the server, and the requests of the APIs that a run uses."""

    port: int = 0
    runs: dict[RunKey, Run] = field(default_factory=dict)
    upserts: list[dict[str, Any]] = field(default_factory=list)
    streamed: list[dict[str, Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def values(self, key: RunKey, step: str = "step") -> dict[str, dict[int, float]]:
        """Return the newest value of each step, as a chart with the axis `step` shows it."""
        found: dict[str, dict[int, float]] = {}
        for line in self.runs[key].history:
            for name, value in line.items():
                if name != step and not name.startswith("_"):
                    found.setdefault(name, {})[line[step]] = value
        return found

    def query(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Answer a request of GraphQL."""
        if "upsertBucket" in query:
            return self._upsert(variables)
        if "createRunFiles" in query:
            files = [{"name": each, "uploadUrl": f"{self.url}/up"} for each in variables["files"]]
            return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}
        if "viewer" in query:
            flags = {"flags": "{}", "teams": {"edges": []}, "email": "ada@example.com"}
            return {"viewer": {"id": "1", "entity": ENTITY, "username": ENTITY, **flags}}
        return {"serverInfo": {"features": []}, "model": None, "project": None}

    def stream(self, key: RunKey, body: dict[str, Any]) -> None:
        """Store lines of the files of a run."""
        self.streamed.append(body)
        run = self.runs[key]
        files = body.get("files") or {}
        for name, part in files.items():
            parsed = [json.loads(line) for line in part["content"]] if "json" in name else []
            if name == "wandb-history.jsonl":
                # A server refuses lines after a gap.
                assert part["offset"] <= len(run.lines), (part["offset"], len(run.lines))
                run.lines |= dict(enumerate(parsed, part["offset"]))
            elif name == "wandb-summary.json" and parsed:
                run.summary = parsed[-1]
        if body.get("complete"):
            run.exit_code, run.state = body.get("exitcode"), "ended"

    def _upsert(self, given: dict[str, Any]) -> dict[str, Any]:
        self.upserts.append(given)
        key = (
            given.get("entity") or ENTITY,
            given.get("project") or "uncategorized",
            given["name"],
        )
        inserted = key not in self.runs
        run = self.runs.setdefault(key, Run())
        if given.get("displayName"):
            run.display_name = given["displayName"]
        if given.get("tags") is not None:
            run.tags = given["tags"]
        if given.get("config"):
            run.config = json.loads(given["config"])
        if given.get("state"):
            run.state = given["state"]
        entity, project, name = key
        bucket = {
            "id": f"id-{name}",
            "name": name,
            "displayName": run.display_name,
            "description": None,
            "config": json.dumps(run.config),
            "sweepName": None,
            "historyLineCount": len(run.lines),
            "project": {"id": "p", "name": project, "entity": {"id": "e", "name": entity}},
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}


def _handler(server: LocalWandb) -> type[BaseHTTPRequestHandler]:
    wanted = "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("content-length") or 0))
            if self.headers.get("content-encoding") == "gzip":
                content = gzip.decompress(content)
            if self.path.startswith(("/graphql", "/files/")) and (
                self.headers.get("authorization") != wanted
            ):
                self._answer(401, {"error": "user is not logged in"})
            elif self.path == "/graphql":
                body = json.loads(content)
                self._answer(
                    200, {"data": server.query(body["query"], body.get("variables") or {})}
                )
            elif self.path.endswith("/file_stream"):
                _, _, entity, project, name, _ = self.path.split("/")
                server.stream((entity, project, name), json.loads(content))
                self._answer(200, {"exitcode": None, "limits": {}})
            else:
                self._answer(200, {})

        do_PUT = do_GET = do_POST

        def _answer(self, status: int, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    return Handler


@contextmanager
def running_wandb() -> Iterator[LocalWandb]:
    """Run a server in a thread until the end of the block."""
    state = LocalWandb()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
