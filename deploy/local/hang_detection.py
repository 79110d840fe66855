"""Vital signs of the supervisor's children: heartbeat files, and probes asked by a thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Protocol

PROBE_SECONDS = 5.0
LONGEST_GAP_SECONDS = 10.0
"""Time between two looks that counts: a supervisor that was frozen itself blames no child."""

log = logging.getLogger("supervisor")


class Sign(Protocol):
    """Something that changes again and again while a child lives."""

    name: str
    most_seconds: float

    def present(self) -> Hashable:
        """Its present value; None means that there is no sign yet, and no process is judged."""
        ...


class Heartbeat:
    """A file that a child touches. It is made here, as a full disk might refuse it later."""

    def __init__(self, path: Path, most_seconds: float) -> None:
        self.name, self.most_seconds = "no heartbeat", most_seconds
        self._path = path
        path.touch()

    def present(self) -> Hashable:
        """When it was touched last, ns."""
        return self._path.stat().st_mtime_ns


class Probe:
    """A question to a child, asked by a `Prober`. The first answer after a start arms it."""

    def __init__(self, name: str, most_seconds: float, ask: Callable[[], bool]) -> None:
        self.name, self.most_seconds = name, most_seconds
        self._ask = ask
        self._answers = 0

    def present(self) -> Hashable:
        """Number of times that it was answered."""
        return self._answers or None

    def ask(self) -> None:
        """Ask once; takes as long as the question's own time limit."""
        try:
            self._answers += self._ask()
        except Exception:
            log.exception("a probe failed: %s", self.name)

    def disarm(self) -> None:
        """Judge no process until it is answered again."""
        self._answers = 0


class Prober(threading.Thread):
    """Asks probes in turn, so that the supervisor's own thread never waits for an answer."""

    def __init__(self, probes: Iterable[Probe]) -> None:
        super().__init__(name="prober", daemon=True)
        self._probes = tuple(probes)

    def run(self) -> None:
        """Ask for ever."""
        while True:
            time.sleep(PROBE_SECONDS)
            for probe in self._probes:
                probe.ask()


class Silence:
    """For how long a sign has not changed since its child started, seconds."""

    def __init__(self, sign: Sign) -> None:
        self.sign = sign
        if isinstance(sign, Probe):
            sign.disarm()
        self._last: Hashable = None
        self._seconds, self._looked = 0.0, time.monotonic()

    def look(self) -> float:
        """Take a look; returns the seconds of silence that count."""
        now, present = time.monotonic(), self.sign.present()
        if present is None or present != self._last:
            self._last, self._seconds = present, 0.0
        else:
            self._seconds += min(now - self._looked, LONGEST_GAP_SECONDS)
        self._looked = now
        return self._seconds

    @property
    def too_long(self) -> bool:
        """Return True if the child hung at the last look."""
        return self._seconds > self.sign.most_seconds
