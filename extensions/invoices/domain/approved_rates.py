"""The rates that an account holder approved for the segments of a job.

The versions of a job's events have no gaps. So its events up to an allocation show which approval
or resume was the last one before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from domain.core.money import exact_dollars
from extensions.invoices.domain.money_events import (
    Entry,
    Inconsistent,
    JobApproved,
    JobResumed,
    MeterOpened,
    SegmentAllocated,
)


@dataclass
class ApprovedJob:
    """The GPU type of a job, and the approved rate of each segment that got GPUs."""

    gpu_type: str
    rates: dict[int, int] = field(default_factory=dict[int, int])
    """Micro-dollars per hour of all GPUs, by segment."""


def approved_job(id: UUID, approved: JobApproved, entries: Sequence[Entry]) -> ApprovedJob:
    """Read the events of a job. Raise Inconsistent if a segment has GPUs twice, or is missing."""
    job, rate = ApprovedJob(approved.plan.gpu_type), approved.plan.rate_micros_per_hour
    for row, event in entries:
        if isinstance(event, JobResumed):
            rate = event.rate_micros_per_hour
        elif isinstance(event, SegmentAllocated):
            expected = len(job.rates) + 1
            if event.segment != expected:
                raise Inconsistent(
                    f"Event {row.notification_id} ({row.topic}) allocated segment {event.segment} "
                    f"of job {id}. Segment {expected} is expected."
                )
            job.rates[event.segment] = rate
    return job


def entries_until(entries: Sequence[Entry], segment: int) -> Sequence[Entry]:
    """Return the events of a job up to the allocation of a segment, or none without it."""
    for index, (_, event) in enumerate(entries):
        if isinstance(event, SegmentAllocated) and event.segment == segment:
            return entries[: index + 1]
    return ()


def require_approved_rate(opened: MeterOpened, job: ApprovedJob | None) -> None:
    """Raise Inconsistent unless a meter has the rate that was approved for its segment."""
    if job is None:
        raise Inconsistent(f"The event that approved job {opened.job_id} is missing.")
    approved = job.rates.get(opened.segment)
    if approved is None:
        raise Inconsistent(
            f"The event that allocated GPUs to segment {opened.segment} of job {opened.job_id} is "
            "missing."
        )
    if opened.rate_micros_per_hour != approved:
        raise Inconsistent(
            f"The meter of segment {opened.segment} of job {opened.job_id} charges "
            f"{exact_dollars(opened.rate_micros_per_hour)} an hour. The account holder approved "
            f"{exact_dollars(approved)}."
        )
