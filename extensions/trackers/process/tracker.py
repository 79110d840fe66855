"""The interface of trackers, and the values that they receive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple, Protocol

from domain.core.errors import DomainError


class TrackerFailure(DomainError):
    """A tracker did not accept a request. The message is for the account holder."""

    code = "tracker_failed"

    def __init__(self, message: str, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Point(NamedTuple):
    """Metrics of one optimizer step or evaluation, by name."""

    step: int
    measured_at: datetime
    values: Mapping[str, float]


class Ending(StrEnum):
    """The end of a run's job."""

    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class RunSummary:
    """The facts of a job that a tracker shows besides its metrics. Parameters never change."""

    job: str
    """The job's ID, such as `ftjob-...`."""
    started_at: datetime
    parameters: Mapping[str, str | int | float | bool]
    facts: Mapping[str, str] = field(default_factory=dict)
    """Facts that change while the job runs, such as its status, cost and model."""
    url: str | None = None
    """The job's page."""
    ending: Ending | None = None
    ended_at: datetime | None = None


class Started(NamedTuple):
    """A run of a tracker: its ID there, and the URL of its page."""

    run_id: str
    url: str | None


class TrackerClient(Protocol):
    """A tracker's server. Each method raises TrackerFailure, and may be repeated."""

    most_points: int
    """Points that one request may have."""

    @property
    def server(self) -> str:
        """Identity of the server."""
        ...

    async def check(self) -> None:
        """Raise TrackerFailure unless the server accepts the credentials."""
        ...

    async def start(self, summary: RunSummary) -> Started:
        """Create the run of a job with its parameters, or find the one of an earlier attempt."""
        ...

    async def send(
        self, run_id: str, points: Sequence[Point], line: int, newest: Mapping[str, float]
    ) -> None:
        """Add points to a run. `line` is the number of points that it has already.

        `newest` has the newest value of each metric of the job. A repeated request with the same
        line replaces the points of the first.
        """
        ...

    async def describe(self, run_id: str, summary: RunSummary, newest: Mapping[str, float]) -> None:
        """Update the facts of a run. With an ending, end the run."""
        ...
