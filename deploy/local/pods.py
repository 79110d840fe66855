"""Local pods as the supervisor sees them: the folders in which the local launcher records them."""

from __future__ import annotations

import signal
from contextlib import suppress

import psutil
from pydantic import BaseModel, ValidationError

from deploy.local.home import Home
from infrastructure.liveness import kill_groups, living, wait_ended


class PodRecord(BaseModel):
    """What `pods/<name>/pod.json` says of the process that holds a pod."""

    pid: int
    born: str  # as infrastructure.liveness names the process


def living_pods(home: Home) -> list[psutil.Process]:
    """The processes that hold a living pod of this home."""
    found: list[psutil.Process] = []
    for path in home.pods.glob("*/pod.json"):
        try:
            record = PodRecord.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            continue  # being written or removed: a pod is recorded before its trainer starts
        process = living(record.pid, record.born)
        if process is not None:
            found.append(process)
    return found


def stop_pods(home: Home, timeout: float) -> int:
    """Ask every living pod to stop, and end those that still live after `timeout` seconds.

    Returns how many had to be ended.
    """
    pods = living_pods(home)
    for pod in pods:
        with suppress(psutil.NoSuchProcess):
            pod.send_signal(signal.SIGTERM)
    late = wait_ended(pods, timeout)
    kill_groups(late)
    return len(late)
