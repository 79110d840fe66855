"""Billing's reactions: a meter for each segment, and its settlement when the segment ends."""

from __future__ import annotations

from collections.abc import Sequence

from domain.account import Account
from domain.aggregate import Aggregate, Event
from domain.event_log import EventLog
from domain.identity import meter_id
from domain.job import Job
from domain.meter import Meter
from services.billing.settlement import LeasePolicy, Running, close, settle


class Metering:
    """Opens a meter when a segment has its GPUs, and closes it when the segment ended."""

    def __init__(self, log: EventLog, policy: LeasePolicy) -> None:
        self._log = log
        self._policy = policy

    def react(self, event: Event) -> Sequence[Aggregate]:
        """Answer one event of the log."""
        match event:
            case Job.SegmentAllocated():
                return self.on_segment_allocated(event)
            case Job.SegmentEnded():
                return self.on_segment_ended(event)
            case _:
                return []

    def on_segment_allocated(self, event: Job.SegmentAllocated) -> Sequence[Aggregate]:
        """Open the segment's meter with its first lease, if the balance can pay for one.

        Without one the segment waits, free of charge, and the ticker tries again.
        """
        meter = self._log.find(Meter, meter_id(event.originator_id, event.segment))
        if meter is not None:
            return []
        account = self._log.load(Account, event.account_id)
        meter = Meter.open(
            event.account_id, event.originator_id, event.segment, event.rate_micros_per_hour
        )
        settle(account, [Running(meter, 0)], self._policy)
        return [meter, account]

    def on_segment_ended(self, event: Job.SegmentEnded) -> Sequence[Aggregate]:
        """Settle to the second; work that a crash lost is credited."""
        meter = self._log.load(Meter, meter_id(event.originator_id, event.segment))
        if meter.closed:
            return []
        account = self._log.load(Account, event.account_id)
        close(account, meter, event.elapsed_seconds, event.kept_seconds, self._policy)
        return [meter, account]
