"""Accounts that are billed at chosen times."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from uuid import UUID

from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from domain.jobs.job import SegmentEnd
from tests.builders.examples import ACCOUNT_ID
from tests.builders.history import History


def day(month: int, day: int) -> datetime:
    """Return noon of a day in 2026."""
    return datetime(2026, month, day, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Run:
    """A segment of a job: its rate, billed seconds, and seconds in its last checkpoint."""

    rate_micros_per_hour: int
    seconds: int
    kept_seconds: int | None = None  # None: the segment completes, so that nothing is lost
    gpu_type: str = "cpu"


class Bills:
    """An account whose events are at the time of `now`."""

    def __init__(
        self, log: EventLog, now: datetime = day(10, 1), account_id: UUID = ACCOUNT_ID
    ) -> None:
        self.log, self.now = log, now
        self._numbers = count(1)
        self.history = History(log, account_id, command=self.command)

    @contextmanager
    def command(self, name: str) -> Iterator[None]:
        """Run the block as a command of its own, now."""
        with because(Cause("account:test", f"{next(self._numbers)} {name}", self.now)):
            yield

    def run(self, run: Run) -> History:
        """Run one segment of a new job on a pool of its own, and bill it."""
        job = self.history.another_job()
        number = next(self._numbers)
        job.plan = job.plan.model_copy(update={"region": f"region-{number}"})
        rate, kind = run.rate_micros_per_hour, run.gpu_type
        job.plan = job.plan.model_copy(update={"gpu_type": kind, "rate_micros_per_hour": rate})
        job.open_pool()
        job.approve_job()
        job.allocate_segment(1)
        job.grant_lease(1, run.seconds + 1)
        job.start_pod(1)
        job.start_training(1)
        job.bill(1, run.seconds)
        if run.kept_seconds is None:
            job.complete(1)
            job.end_segment(1, SegmentEnd.COMPLETED, run.seconds)
        else:
            job.save_checkpoint(1, 10, run.kept_seconds)
            job.end_segment(1, SegmentEnd.CRASHED, run.seconds, error_class="ProcessLost")
        return job
