"""Failpoints: places in a process where the harness can kill, stop or delay it.

The harness arms one failpoint of a process by writing a file. The process that reaches it claims
the file, so that the failpoint fires once, even if the process restarts or has a standby.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Action = Literal["kill", "stop", "delay"]


@dataclass(frozen=True)
class Armed:
    """A failpoint that is armed in a process."""

    fault: int
    point: str
    """Name of the place, such as `publish.after`."""
    count: int
    """Number of times that the process reaches the place, including the one that fires."""
    action: Action
    seconds: float = 0.0
    """Duration of a delay."""


class Failpoints:
    """The failpoints of one process, by the name under which the supervisor runs it."""

    def __init__(self, directory: Path, process: str) -> None:
        self._armed = directory / "armed" / f"{process}.json"
        self._fired = directory / "fired"
        self._counting = threading.Lock()
        self._counted: tuple[int, int] = (0, 0)  # number of the fault, and how often it was reached

    def armed(self, point: str) -> Armed | None:
        """Return the armed failpoint if it is at this place."""
        try:
            found = Armed(**json.loads(self._armed.read_bytes()))
        except FileNotFoundError:
            return None
        return found if found.point == point else None

    def hit(self, point: str) -> None:
        """Act if this failpoint is armed and due."""
        armed = self.armed(point)
        if armed is None or not self._is_due(armed):
            return
        claimed = self._fired / f"{armed.fault}.json"
        try:
            self._armed.rename(claimed)
        except FileNotFoundError:
            return  # another process claimed it, or the harness took it back
        partial = claimed.with_suffix(".partial")
        partial.write_text(json.dumps({"pid": os.getpid(), **asdict(armed)}))
        partial.rename(claimed)
        match armed.action:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "delay":
                time.sleep(armed.seconds)

    def _is_due(self, armed: Armed) -> bool:
        with self._counting:
            fault, reached = self._counted
            reached = reached + 1 if fault == armed.fault else 1
            self._counted = (armed.fault, reached)
            return reached == armed.count


class Arming:
    """The harness's side: arm a failpoint, and find out if it fired."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        for name in ("armed", "fired"):
            (directory / name).mkdir(parents=True, exist_ok=True)

    def arm(self, process: str, armed: Armed) -> None:
        """Arm a failpoint. It replaces an earlier one of the same process."""
        path = self._directory / "armed" / f"{process}.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(armed)))
        partial.rename(path)

    def fired_in(self, fault: int) -> int | None:
        """Return the ID of the process in which the failpoint fired, or None."""
        try:
            found = json.loads((self._directory / "fired" / f"{fault}.json").read_bytes())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return found.get("pid")

    def disarm(self, process: str) -> None:
        """Take back a failpoint that has not fired."""
        (self._directory / "armed" / f"{process}.json").unlink(missing_ok=True)
