"""A limit on the computing time of a pass, which then ends with what it has found."""

from __future__ import annotations

import time


class OutOfTime(Exception):
    """The computing time of a pass is used up."""


class ComputingTime:
    """The computing time of this process that a pass may use, from its creation."""

    def __init__(self, seconds: float) -> None:
        self._end = time.process_time() + seconds

    def check(self) -> None:
        """Raise OutOfTime if the time is used up."""
        if time.process_time() > self._end:
            raise OutOfTime
