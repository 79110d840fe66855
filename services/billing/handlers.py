"""Event handlers of the billing service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

from domain.billing.account import Account
from domain.billing.meter import Meter, SegmentLimits
from domain.billing.spending import charged_key, committed_micros
from domain.core.aggregate import Aggregate
from domain.core.event_log import EventLog
from domain.core.identity import meter_id
from domain.jobs import events
from domain.jobs.job import Job
from infrastructure.bus.event_handlers import Handlers
from services.billing.evidence import elapsed_seconds
from services.billing.settlement import LeasePolicy, close, credit_lost_work, open_meter


class Metering:
    """Event handlers that open a segment's meter when it gets GPUs, and close it at its end."""

    def __init__(self, log: EventLog, policy: LeasePolicy, now: Callable[[], datetime]) -> None:
        self._log = log
        self._policy = policy
        self._now = now

    @property
    def handlers(self) -> Handlers:
        """Event handlers, by event."""
        return {
            events.SegmentAllocated: self.on_segment_allocated,
            events.SegmentEnded: self.on_segment_ended,
            events.CheckpointRejected: self.on_checkpoint_rejected,
            events.MaxCostChanged: self.on_max_cost_changed,
        }

    def on_segment_allocated(self, event: events.SegmentAllocated) -> Sequence[Aggregate]:
        """Open the meter of the segment with its first lease.

        Refuse the lease if the balance is too low or the job's maximum cost is used up. The
        scheduler then ends the segment. What the job's guarantee leaves stays as it is until the
        segment ends, even if a credit for an earlier segment leaves more.
        """
        meter = self._log.find(Meter, meter_id(event.originator_id, event.segment))
        if meter is not None:
            return []
        account = self._log.load(Account, event.account_id)
        job = self._log.load(Job, event.originator_id)
        meter = Meter.open(
            event.account_id,
            job.id,
            event.segment,
            event.rate_micros_per_hour,
            self._limits(job, event.segment),
            charged_key(self._log, account, job.key_id),
        )
        open_meter(account, meter, self._policy)
        return [meter, account]

    def on_segment_ended(self, event: events.SegmentEnded) -> Sequence[Aggregate]:
        """Settle an ended segment to the second, and credit the work that a crash lost."""
        meter = self._log.find(Meter, meter_id(event.originator_id, event.segment))
        if meter is None or meter.closed:
            return []
        account = self._log.load(Account, event.account_id)
        ran, kept = self._ran_and_kept_seconds(event)
        close(account, meter, ran, kept, self._policy)
        return [meter, account]

    def on_checkpoint_rejected(self, event: events.CheckpointRejected) -> Sequence[Aggregate]:
        """Credit the work lost with a rejected checkpoint.

        This is the time of all earlier segments after the checkpoint from which the job continues.
        These segments are already settled.
        """
        if event.kept_seconds is None:
            return []
        account = self._log.load(Account, event.account_id)
        job, meters = self._log.load(Job, event.originator_id), list[Meter]()
        for segment, paid in job.usage.paid.items():
            meter = self._log.find(Meter, meter_id(job.id, segment))
            if meter is not None and segment < event.segment:
                credit_lost_work(account, meter, paid.seconds)
                meters.append(meter)
        if not any(meter.pending_events for meter in meters):
            return []
        return [*meters, account, *self._limited(job.id, meters)]

    def on_max_cost_changed(self, event: events.MaxCostChanged) -> Sequence[Aggregate]:
        """Limit the running segment to what the new maximum cost of its job leaves."""
        return self._limited(event.originator_id)

    def _limited(self, job_id: UUID, unsaved: Sequence[Meter] = ()) -> Sequence[Meter]:
        job = self._log.load(Job, job_id)
        meter = self._log.find(Meter, meter_id(job.id, job.segment))
        if meter is None or meter.closed:
            return []
        meter.change_limit(self._limits(job, job.segment, unsaved).limit_micros)
        return [meter]

    def _limits(self, job: Job, segment: int, unsaved: Sequence[Meter] = ()) -> SegmentLimits:
        spent = committed_micros(self._log, job.id, segment - 1, unsaved)
        return SegmentLimits(
            limit_micros=job.left_of_max_cost(spent) if job.pauses_at_max_cost else None,
            guarantee_micros=job.left_of_guarantee(spent),
            most_seconds=job.left_seconds,
        )

    def _ran_and_kept_seconds(self, event: events.SegmentEnded) -> tuple[int, int]:
        """Return the elapsed seconds and the checkpointed seconds, for billing.

        Both are limited to the time between `bound_at` and the segment's end. Billing never charges
        for the grace period, even if it extended the lease during it. It does not charge for time
        after the end either, even if an early tick has charged for it.
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
        """Return when the pod of a segment started, from the log, because projections may lag."""
        for event in self._log.events.get(job_id, desc=True):
            if isinstance(event, events.PodStarted) and event.segment == segment:
                return event.bound_at
        return None
