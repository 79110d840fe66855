"""MLflow in memory: the requests of its REST API that EcoLink and the tests use.

The tests of trackers run with this server, and with the real one in `make test-full`.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

from tests.localmlflow.reading import API, MlflowServer

MOST = {"metrics": 1_000, "params": 100, "tags": 100}
"""Most entries of one request to log."""

MOST_KEY_CHARACTERS, MOST_PARAMETER_CHARACTERS = 250, 6_000

BY_TAG = re.compile(r"tags\.`([^`]+)` = '([^']*)'")


class Refused(Exception):
    """A request that MLflow refuses with a status and a code."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass
class Run:
    """A stored run."""

    info: dict[str, Any]
    tags: dict[str, str]
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[tuple[str, int, int, float], None] = field(default_factory=dict)
    """Values by key, timestamp, step and value, so that a repeated one is stored once."""

    def show(self) -> dict[str, Any]:
        """Return the run as a response has it."""
        data = {"tags": _pairs(self.tags), "params": _pairs(self.params)}
        return {"info": self.info, "data": data}


def _require_short(what: str, text: str, most: int) -> None:
    if len(text) > most:
        message = f"The {what} {text[:20]!r} exceeded the maximum length of {most} characters."
        raise Refused(400, "INVALID_PARAMETER_VALUE", message)


def _pairs(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in values.items()]


class MemoryMlflow(MlflowServer):
    """The stored experiments and runs."""

    def __init__(self) -> None:
        super().__init__(0)
        self._experiments: dict[str, str] = {}
        self._runs: dict[str, Run] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._routes: dict[tuple[str, str], Callable[[dict[str, Any]], dict[str, Any]]] = {
            ("GET", "/experiments/get-by-name"): self._experiment,
            ("POST", "/experiments/create"): self._create_experiment,
            ("POST", "/experiments/search"): lambda _: {"experiments": []},
            ("POST", "/runs/search"): self._search,
            ("POST", "/runs/create"): self._create,
            ("POST", "/runs/log-batch"): self._log,
            ("POST", "/runs/update"): self._update,
            ("POST", "/runs/delete"): self._delete,
            ("GET", "/metrics/get-history"): self._values,
        }

    def answer(self, method: str, path: str, given: dict[str, Any]) -> dict[str, Any]:
        """Return the response to a request. Raise Refused."""
        route = self._routes.get((method, path.removeprefix(API)))
        if route is None:
            raise Refused(404, "ENDPOINT_NOT_FOUND", f"No such endpoint: {path}")
        with self._lock:
            return route(given)

    def _experiment(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given["experiment_name"]
        if name not in self._experiments:
            raise Refused(404, "RESOURCE_DOES_NOT_EXIST", f"Could not find experiment {name!r}")
        found = {"experiment_id": self._experiments[name], "name": name}
        return {"experiment": found | {"lifecycle_stage": "active"}}

    def _create_experiment(self, given: dict[str, Any]) -> dict[str, Any]:
        if given["name"] in self._experiments:
            raise Refused(400, "RESOURCE_ALREADY_EXISTS", "The experiment exists.")
        id = self._experiments[given["name"]] = str(next(self._numbers))
        return {"experiment_id": id}

    def _search(self, given: dict[str, Any]) -> dict[str, Any]:
        tag = BY_TAG.fullmatch(given["filter"]) if "filter" in given else None
        assert tag is not None or "filter" not in given, given
        found = [
            run.show()
            for run in self._runs.values()
            if run.info["experiment_id"] in given["experiment_ids"]
            and run.info["lifecycle_stage"] == "active"
            and (tag is None or run.tags.get(tag[1]) == tag[2])
        ]
        return {"runs": found[: given.get("max_results", 1_000)]} if found else {}

    def _create(self, given: dict[str, Any]) -> dict[str, Any]:
        info = {
            "run_id": uuid4().hex,
            "run_name": given["run_name"],
            "experiment_id": given["experiment_id"],
            "start_time": given["start_time"],
            "status": "RUNNING",
            "lifecycle_stage": "active",
        }
        run = Run(info, {each["key"]: each["value"] for each in given["tags"]})
        self._runs[info["run_id"]] = run
        return {"run": run.show()}

    def _active(self, run_id: str) -> Run:
        run = self._runs.get(run_id)
        if run is None:
            raise Refused(404, "RESOURCE_DOES_NOT_EXIST", f"Run with id={run_id} not found")
        if run.info["lifecycle_stage"] != "active":
            message = f"The run {run_id} must be in the 'active' state. Current state is deleted."
            raise Refused(400, "INVALID_PARAMETER_VALUE", message)
        return run

    def _log(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self._active(given["run_id"])
        for kind, most in MOST.items():
            if len(given.get(kind, [])) > most:
                message = f"A batch logging request can contain at most {most} {kind}."
                raise Refused(400, "INVALID_PARAMETER_VALUE", message)
        for each in given.get("params", []):
            _require_short("key", each["key"], MOST_KEY_CHARACTERS)
            _require_short("value", each["value"], MOST_PARAMETER_CHARACTERS)
            if run.params.setdefault(each["key"], each["value"]) != each["value"]:
                message = f"Changing param values is not allowed: {each['key']}"
                raise Refused(400, "INVALID_PARAMETER_VALUE", message)
        run.tags |= {each["key"]: each["value"] for each in given.get("tags", [])}
        for each in given.get("metrics", []):
            _require_short("key", each["key"], MOST_KEY_CHARACTERS)
            run.metrics[each["key"], each["timestamp"], each["step"], each["value"]] = None
        return {}

    def _update(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self._active(given["run_id"])
        run.info |= {name: given[name] for name in ("status", "end_time") if name in given}
        return {"run_info": run.info}

    def _delete(self, given: dict[str, Any]) -> dict[str, Any]:
        self._active(given["run_id"]).info["lifecycle_stage"] = "deleted"
        return {}

    def _values(self, given: dict[str, Any]) -> dict[str, Any]:
        found = [
            {"key": key, "timestamp": timestamp, "step": step, "value": value}
            for key, timestamp, step, value in self._runs[given["run_id"]].metrics
            if key == given["metric_key"]
        ]
        return {"metrics": found} if found else {}


def _handler(server: MemoryMlflow) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(dict(parse_qsl(urlsplit(self.path).query)))

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))

        def _answer(self, given: dict[str, Any]) -> None:
            status = 200
            try:
                body = server.answer(self.command, urlsplit(self.path).path, given)
            except Refused as refused:
                status = refused.status
                body = {"error_code": refused.code, "message": str(refused)}
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    return Handler


@contextmanager
def mlflow_in_memory() -> Iterator[MemoryMlflow]:
    """Run a server in a thread until the end of the block."""
    state = MemoryMlflow()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    server.daemon_threads = True
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
