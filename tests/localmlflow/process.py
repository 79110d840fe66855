"""The tracking server of MLflow as a process, which tests can stop and start again."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from deploy.local.ports import free_port
from tests.localmlflow.reading import MlflowServer
from tests.polling import eventually

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
START_SECONDS = 180.0


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


class LocalMlflow(MlflowServer):
    """A server with its database in a folder. It keeps its port and data over restarts."""

    def __init__(self, folder: Path) -> None:
        super().__init__(free_port(0))
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

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

    def _responds(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health").is_success
        except httpx.TransportError:
            return False


@contextmanager
def running_mlflow(folder: Path) -> Iterator[LocalMlflow]:
    """Run a tracking server until the end of the block."""
    server = LocalMlflow(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
