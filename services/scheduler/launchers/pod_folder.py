"""The folder of a pod, with its spec, log, beat, last report and exit code."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from infrastructure.training.reports import BEAT, FINAL_REPORT, SegmentSpec

SPEC, REQUEST, EXIT, LOG = "spec.json", "request.json", "exit.json", "trainer.log"
STARTED = "started"
"""Directory in that of a pod of a cluster. It exists once a process has started the pod."""


def write_spec(folder: Path, spec: SegmentSpec) -> None:
    """Write the spec for the trainer's user, and its beat: a full disk would stop it there."""
    write(folder / SPEC, spec.model_dump_json())
    (folder / BEAT).touch()


def write(path: Path, content: str) -> None:
    """Create or replace a file at once. Only its owner can read it."""
    partial = path.with_suffix(".partial")
    with open(partial, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)
    partial.rename(path)


def read(path: Path) -> dict[str, Any] | None:
    """Return a JSON file, or None if it is missing, or incomplete after a power loss."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def beat(folder: Path) -> int:
    """Return a value that changes whenever the trainer touches its beat."""
    try:
        return (folder / BEAT).stat().st_mtime_ns
    except FileNotFoundError:
        return 0  # never seen to change


def log_tail(folder: Path, max_bytes: int) -> bytes:
    """Return the end of the trainer's stdout and stderr; empty without a log."""
    path = folder / LOG
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - max_bytes))
            return file.read()
    except FileNotFoundError:
        return b""


def kept_report(folder: Path) -> bytes | None:
    """Return the report that the trainer stored next to its spec, or None."""
    with suppress(FileNotFoundError):
        return (folder / FINAL_REPORT).read_bytes()
    return None
