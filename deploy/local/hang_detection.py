"""Detection of child processes that hang, by heartbeat files and probes."""

from __future__ import annotations

import http.client
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Protocol

PROBE_SECONDS = 5.0
MAX_GAP_SECONDS = 10.0
"""Maximum time that counts between two checks, in seconds.

If the supervisor itself was suspended, it does not assume that its children hang.
"""

log = logging.getLogger("supervisor")


class Check(Protocol):
    """A value that keeps changing while a child works."""

    name: str
    max_seconds: float

    def current(self) -> Hashable:
        """Return the current value, or None while it says nothing about the child."""
        ...


class Heartbeat:
    """A file that a child touches.

    The supervisor creates the file, because the disk can be full later.
    """

    def __init__(self, path: Path, max_seconds: float) -> None:
        self.name, self.max_seconds = "no heartbeat", max_seconds
        self._path = path
        path.touch()

    def current(self) -> Hashable:
        """Return the time of the last touch in nanoseconds."""
        return self._path.stat().st_mtime_ns


class Probe:
    """A repeated request to a child, sent by a `Prober`. The first reply after a start arms it."""

    def __init__(self, name: str, max_seconds: float, ask: Callable[[], bool]) -> None:
        self.name, self.max_seconds = name, max_seconds
        self._ask = ask
        self._answers = 0

    def current(self) -> Hashable:
        """Return the number of replies, or None before the first reply."""
        return self._answers or None

    def ask(self) -> None:
        """Send one request. Block until its reply or timeout."""
        try:
            self._answers += self._ask()
        except Exception:
            log.exception("a probe failed: %s", self.name)

    def disarm(self) -> None:
        """Ignore the probe until the next reply."""
        self._answers = 0


class Prober(threading.Thread):
    """A thread that runs the probes in turn, so that the supervisor's own thread never blocks."""

    def __init__(self, probes: Iterable[Probe]) -> None:
        super().__init__(name="prober", daemon=True)
        self._probes = tuple(probes)

    def run(self) -> None:
        """Run the probes forever."""
        while True:
            time.sleep(PROBE_SECONDS)
            for probe in self._probes:
                probe.ask()


class Silence:
    """The seconds for which the value of a check has not changed, since its child started."""

    def __init__(self, check: Check) -> None:
        self.check = check
        if isinstance(check, Probe):
            check.disarm()
        self._last: Hashable = None
        self._seconds, self._looked = 0.0, time.monotonic()

    def look(self) -> float:
        """Update and return the seconds without a change."""
        now, current = time.monotonic(), self.check.current()
        if current is None or current != self._last:
            self._last, self._seconds = current, 0.0
        else:
            self._seconds += min(now - self._looked, MAX_GAP_SECONDS)
        self._looked = now
        return self._seconds


def healthz(host: str, port: int, timeout: float) -> int | None:
    """Return the HTTP status of GET /healthz.

    Return None if no reply arrives within `timeout` seconds.
    """
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
