"""The state of a job as of a moment: its segments, their meters and its cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from domain.billing.meter import Meter, SegmentEvent
from domain.core.identity import job_request_id, meter_id
from domain.core.recorded import Recorded
from domain.jobs import events
from domain.jobs.job import Job
from domain.jobs.job_request import JobRequest, RequestEvent
from domain.replay.stream import after


def streams_of(job_id: UUID, segments: int) -> list[UUID]:
    """Return the IDs of the streams that the state of a job with this many segments comes from."""
    meters = (meter_id(job_id, number) for number in range(1, segments + 1))
    return [job_id, job_request_id(job_id), *meters]


def reserved_micros(meter: Meter) -> int:
    """Return the price of a meter's paid time that is not billed yet; 0 once it is closed."""
    return 0 if meter.closed else meter.charge_between(meter.billed_seconds, meter.paid_seconds)


@dataclass
class SegmentState:
    """One launch of a job, with its meter. Amounts are in micro-dollars."""

    number: int
    allocated_at: datetime | None = None
    bound_at: datetime | None = None  # when the GPUs were bound; billing starts
    ended_at: datetime | None = None
    ending: events.SegmentEnded | None = None
    meter: Meter | None = None
    charged_micros: int = 0
    credited_micros: int = 0


@dataclass
class JobState:
    """A job, folded from its events, those of its request (if any) and those of its meters."""

    job: Job | None = None
    request: JobRequest | None = None
    segments: dict[int, SegmentState] = field(default_factory=dict[int, SegmentState])

    def apply(self, item: Recorded) -> None:
        """Apply the next event; ignore other aggregates. Raise BrokenStream if it does not fit."""
        match item.event:
            case events.JobEvent() as event:
                self.job = after(Job, self.job, item)
                self._note_launch(event)
            case RequestEvent():
                self.request = after(JobRequest, self.request, item)
            case SegmentEvent() as event:
                segment = self._segment(event.segment)
                segment.meter = after(Meter, segment.meter, item)
                if isinstance(event, Meter.MinuteMetered):
                    segment.charged_micros += event.amount_micros
                elif isinstance(event, Meter.LostWorkCredited):
                    segment.credited_micros += event.amount_micros
            case _:
                pass

    @property
    def charged_micros(self) -> int:
        """Sum of all billed minutes."""
        return sum(each.charged_micros for each in self.segments.values())

    @property
    def credited_micros(self) -> int:
        """Sum of all credits for lost work."""
        return sum(each.credited_micros for each in self.segments.values())

    @property
    def meters(self) -> list[Meter]:
        """The meters of all segments, in order."""
        return [each.meter for each in self.segments.values() if each.meter is not None]

    def _note_launch(self, event: events.JobEvent) -> None:
        match event:
            case events.SegmentAllocated():
                self._segment(event.segment).allocated_at = event.timestamp
            case events.PodStarted():
                self._segment(event.segment).bound_at = event.bound_at
            case events.SegmentEnded():
                segment = self._segment(event.segment)
                segment.ended_at, segment.ending = event.timestamp, event
            case _:
                pass

    def _segment(self, number: int) -> SegmentState:
        return self.segments.setdefault(number, SegmentState(number))
