"""Billing's reactions: a meter for each segment, and its settlement when the segment ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.core.aggregate import Aggregate, Event
from domain.core.event_log import EventLog
from domain.core.identity import meter_id
from domain.jobs.job import Job
from services.billing.evidence import elapsed_seconds
from services.billing.settlement import LeasePolicy, close, credit_lost_work, open_meter


class Metering:
    """Opens a meter when a segment has its GPUs, and closes it when the segment ended.

    `now` tells the database's time, as the platform's clock has it.
    """

    def __init__(self, log: EventLog, policy: LeasePolicy, now: Callable[[], datetime]) -> None:
        self._log = log
        self._policy = policy
        self._now = now

    def react(self, event: Event) -> Sequence[Aggregate]:
        """Answer one event of the log."""
        match event:
            case Job.SegmentAllocated():
                return self.on_segment_allocated(event)
            case Job.SegmentEnded():
                return self.on_segment_ended(event)
            case Job.CheckpointRejected():
                return self.on_checkpoint_rejected(event)
            case _:
                return []

    def on_segment_allocated(self, event: Job.SegmentAllocated) -> Sequence[Aggregate]:
        """Open the segment's meter with its first lease; refuse that one if there is no money.

        The scheduler ends a segment whose lease was refused.
        """
        meter = self._log.find(Meter, meter_id(event.originator_id, event.segment))
        if meter is not None:
            return []
        account = self._log.load(Account, event.account_id)
        meter = Meter.open(
            event.account_id, event.originator_id, event.segment, event.rate_micros_per_hour
        )
        open_meter(account, meter, self._policy)
        return [meter, account]

    def on_segment_ended(self, event: Job.SegmentEnded) -> Sequence[Aggregate]:
        """Settle to the second; work that a crash lost is credited.

        A segment that never got a meter has nothing to settle.
        """
        meter = self._log.find(Meter, meter_id(event.originator_id, event.segment))
        if meter is None or meter.closed:
            return []
        account = self._log.load(Account, event.account_id)
        ran, kept = self._ran_and_kept_seconds(event)
        close(account, meter, ran, kept, self._policy)
        return [meter, account]

    def on_checkpoint_rejected(self, event: Job.CheckpointRejected) -> Sequence[Aggregate]:
        """Credit the work that was lost with a checkpoint; its segment is settled by now."""
        meter = self._log.find(Meter, meter_id(event.originator_id, event.saved_in))
        if meter is None or event.kept_seconds is None:
            return []
        account = self._log.load(Account, event.account_id)
        credit_lost_work(account, meter, event.kept_seconds)
        return [meter, account]

    def _ran_and_kept_seconds(self, event: Job.SegmentEnded) -> tuple[int, int]:
        """What the trainer says, no more than the clocks of the scheduler and the database saw.

        Its grace is nobody's bill, also where a lease was extended that it never heard of. Nor is
        time after its end, that a report ahead of time and a tick before this may have billed.
        """
        ran = event.elapsed_seconds - event.grace_seconds
        kept = min(event.kept_seconds, ran)
        bound_at = self._bound_at(event.originator_id, event.segment)
        if bound_at is None:
            return max(0, ran), max(0, kept)
        ended_at = event.timestamp
        return (
            elapsed_seconds(ran, bound_at, min(ended_at, self._now())),
            elapsed_seconds(kept, bound_at, ended_at),
        )

    def _bound_at(self, job_id: UUID, segment: int) -> datetime | None:
        """When the segment got its GPUs; read from the job's last events, and so never late."""
        for event in self._log.events.get(job_id, desc=True):
            if isinstance(event, Job.PodStarted) and event.segment == segment:
                return event.bound_at
        return None
