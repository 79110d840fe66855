"""Detect hung children of the supervisor, by heartbeat files and by probes."""

from __future__ import annotations

import http.client
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Protocol

PROBE_SECONDS = 5.0
LONGEST_GAP_SECONDS = 10.0
"""Longest time between two looks that counts. If the supervisor was frozen, no child is blamed."""

log = logging.getLogger("supervisor")


class Check(Protocol):
    """A value that keeps changing while a child works."""

    name: str
    max_seconds: float

    def current(self) -> Hashable:
        """The current value, or None while the child must not be judged yet."""
        ...


class Heartbeat:
    """A file that a child touches, created here because a full disk could prevent it later."""

    def __init__(self, path: Path, max_seconds: float) -> None:
        self.name, self.max_seconds = "no heartbeat", max_seconds
        self._path = path
        path.touch()

    def current(self) -> Hashable:
        """Time of the last touch, ns."""
        return self._path.stat().st_mtime_ns


class Probe:
    """A question to a child, asked by a `Prober`. The first answer after a start arms it."""

    def __init__(self, name: str, max_seconds: float, ask: Callable[[], bool]) -> None:
        self.name, self.max_seconds = name, max_seconds
        self._ask = ask
        self._answers = 0

    def current(self) -> Hashable:
        """Number of answers."""
        return self._answers or None

    def ask(self) -> None:
        """Ask once. Blocks until the question's own timeout."""
        try:
            self._answers += self._ask()
        except Exception:
            log.exception("a probe failed: %s", self.name)

    def disarm(self) -> None:
        """Ignore the probe until the next answer."""
        self._answers = 0


class Prober(threading.Thread):
    """Asks the probes in turn, so that the supervisor's own thread never blocks."""

    def __init__(self, probes: Iterable[Probe]) -> None:
        super().__init__(name="prober", daemon=True)
        self._probes = tuple(probes)

    def run(self) -> None:
        """Ask forever."""
        while True:
            time.sleep(PROBE_SECONDS)
            for probe in self._probes:
                probe.ask()


class Silence:
    """Measures how long a check has not changed since its child started, in seconds."""

    def __init__(self, check: Check) -> None:
        self.check = check
        if isinstance(check, Probe):
            check.disarm()
        self._last: Hashable = None
        self._seconds, self._looked = 0.0, time.monotonic()

    def look(self) -> float:
        """Look once, and return the seconds of silence so far."""
        now, current = time.monotonic(), self.check.current()
        if current is None or current != self._last:
            self._last, self._seconds = current, 0.0
        else:
            self._seconds += min(now - self._looked, LONGEST_GAP_SECONDS)
        self._looked = now
        return self._seconds

    @property
    def too_long(self) -> bool:
        """True if the child hung at the last look."""
        return self._seconds > self.check.max_seconds


def healthz(host: str, port: int, timeout: float) -> int | None:
    """HTTP status of GET /healthz, or None without an answer within `timeout` seconds."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
