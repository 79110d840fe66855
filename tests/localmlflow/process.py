"""The tracking server of MLflow as a process, which tests can stop and start again."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import venv
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from deploy.local.ports import free_port
from tests.polling import eventually

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
START_SECONDS = 180.0

Values = dict[str, dict[int, float]]
"""Values by metric and step."""


def environment() -> Path:
    """Return the environment of MLflow inside that of the tests. Install it at the first call."""
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    folder = Path(sys.prefix).resolve() / f"mlflow-{wanted}"
    ready = folder / "ready"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other workers of pytest wait
        if not ready.exists():
            venv.create(folder, clear=True, with_pip=True)
            install = [folder / "bin/pip", "install", "-q", "--disable-pip-version-check"]
            subprocess.run([*install, "-r", REQUIREMENTS], check=True)
            ready.touch()
    return folder


class LocalMlflow:
    """A server with its database in a folder. It keeps its port and data over restarts."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.port = folder, free_port(0)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server, and wait until it responds."""
        database = self._folder / "mlflow.db"
        command = [
            *(str(environment() / "bin/mlflow"), "server", "--host", "127.0.0.1"),
            *("--port", str(self.port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{database}"),
        ]
        variables = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "DO_NOT_TRACK": "true"}
        with (self._folder / "mlflow.log").open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=os.environ | variables | {"MLFLOW_DISABLE_TELEMETRY": "true"},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        eventually(self._responds, START_SECONDS)

    def stop(self) -> None:
        """End the server with all its processes."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def runs(self, experiment: str) -> list[dict[str, Any]]:
        """Return the runs of an experiment."""
        found = self._get("/experiments/get-by-name", experiment_name=experiment)
        body = {"experiment_ids": [found["experiment"]["experiment_id"]]}
        return self._post("/runs/search", body).get("runs", [])

    def values(self, run_id: str, *metrics: str) -> Values:
        """Return the newest value of each step, as a chart shows it."""
        found: Values = defaultdict(dict)
        for metric in metrics:
            for point in self._history(run_id, metric):
                found[metric][point["step"]] = point["value"]
        return dict(found)

    def points(self, run_id: str, metric: str) -> int:
        """Return the number of stored values of a metric, with repetitions."""
        return len(self._history(run_id, metric))

    def delete_run(self, run_id: str) -> None:
        """Delete a run as a user of MLflow."""
        self._post("/runs/delete", {"run_id": run_id})

    def _history(self, run_id: str, metric: str) -> list[dict[str, Any]]:
        """Return all values of a metric, oldest first."""
        token, points = "", list[dict[str, Any]]()
        while True:
            query = {"run_id": run_id, "metric_key": metric, "max_results": "25000"}
            found = self._get("/metrics/get-history", **query, page_token=token)
            points += found.get("metrics", [])
            token = found.get("next_page_token", "")
            if not token:
                return sorted(points, key=lambda each: int(each["timestamp"]))

    def _responds(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health").is_success
        except httpx.TransportError:
            return False

    def _get(self, path: str, **query: str) -> dict[str, Any]:
        answer = httpx.get(f"{self.url}/api/2.0/mlflow{path}", params=query, timeout=60)
        assert answer.is_success, answer.text
        return answer.json()

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = httpx.post(f"{self.url}/api/2.0/mlflow{path}", json=body, timeout=60)
        assert answer.is_success, answer.text
        return answer.json()


@contextmanager
def running_mlflow(folder: Path) -> Iterator[LocalMlflow]:
    """Run a tracking server until the end of the block."""
    server = LocalMlflow(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
