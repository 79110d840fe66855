"""A process that receives webhooks, and its requests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.local.ports import free_port
from tests.polling import eventually


@dataclass(frozen=True)
class Request:
    """A received request."""

    path: str
    headers: dict[str, str]
    body: str

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> Any:
        return json.loads(self.body)


class Receiver:
    """A receiver in a process of its own, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.file, self.port = folder / "received.ndjson", free_port(0)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        module = "tests.extensions.notifications.receiver"
        command = [sys.executable, "-m", module, str(self.port), str(self.file)]
        self._process = subprocess.Popen(command)

    def kill(self) -> None:
        """End the process with SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def received(self) -> list[Request]:
        """Return all requests in the order in which they came."""
        if not self.file.exists():
            return []
        lines = self.file.read_text().splitlines(keepends=True)
        return [Request(**json.loads(line)) for line in lines if line.endswith("\n")]

    def await_requests(self, count: int) -> list[Request]:
        """Wait until this number of requests came."""
        eventually(lambda: len(self.received()) >= count)
        return self.received()


@contextmanager
def receiving(folder: Path) -> Iterator[Receiver]:
    """Run a receiver during the block."""
    receiver = Receiver(folder)
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.kill()
