"""Local pods, which the supervisor finds in the folders that the local launcher writes."""

from __future__ import annotations

import signal
from contextlib import suppress

import psutil
from pydantic import BaseModel, ValidationError

from deploy.local.home import Home
from infrastructure.process.liveness import kill_groups, living, wait_ended


class PodRecord(BaseModel):
    """The contents of `pods/<name>/pod.json`: the process that runs a pod."""

    pid: int
    born: str  # start time; see infrastructure.process.liveness.birth


def living_pods(home: Home) -> list[psutil.Process]:
    """Return the processes that run a pod of this home."""
    found: list[psutil.Process] = []
    for path in home.pods.glob("*/pod.json"):
        try:
            record = PodRecord.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            continue  # being written or removed; a pod is recorded before its trainer starts
        process = living(record.pid, record.born)
        if process is not None:
            found.append(process)
    return found


def stop_pods(home: Home, timeout: float) -> int:
    """Ask every running pod to stop, and kill those still running after `timeout` seconds.

    Return the number of killed pods.
    """
    pods = living_pods(home)
    for pod in pods:
        with suppress(psutil.NoSuchProcess):
            pod.send_signal(signal.SIGTERM)
    late = wait_ended(pods, timeout)
    kill_groups(late)
    return len(late)
