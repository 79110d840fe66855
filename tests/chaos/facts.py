"""Facts that processes under test write themselves, one JSON object a line, independent of the log.

It imports only the standard library, so that a trainer can write its first fact before it imports
anything else.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = "CHAOS_DIR"
"""Environment variable with the control directory of a run."""

REAL = "CHAOS_REAL"
"""Environment variable that is set while jobs train a real model."""


def control_directory() -> Path:
    """Return the control directory of the run to which this process belongs."""
    return Path(os.environ[FOLDER])


class FactFile:
    """A file to which one process appends facts. Each write is one system call. Thread-safe."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, kind: str, **fields: Any) -> None:
        """Append a fact with the wall-clock and monotonic time in seconds, and the process ID."""
        times = {"wall": time.time(), "mono": time.monotonic(), "pid": os.getpid()}
        os.write(self._file, json.dumps({"kind": kind, **times, **fields}).encode() + b"\n")


def read_facts(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the facts of a file in order. A killed process may have cut its last line."""
    for line in path.read_bytes().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue
