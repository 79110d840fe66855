"""The paid and billed time of one segment of a job."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Self
from uuid import UUID

from eventsourcing.domain import event
from eventsourcing.utils import register_topic
from pydantic import BaseModel, ConfigDict

from domain.core.aggregate import Aggregate, Created, Event
from domain.core.aggregate_snapshot import AggregateSnapshot
from domain.core.errors import WrongState
from domain.core.identity import meter_id
from domain.core.money import charge_micros, seconds_within

SNAPSHOT_EVENTS = 200


class SegmentEvent(Event):
    """Base class of all events of a segment's meter."""

    job_id: UUID
    segment: int


class MeterState(BaseModel):
    """State of a meter in a snapshot."""

    model_config = ConfigDict(frozen=True)

    account_id: UUID
    created_on: datetime
    modified_on: datetime
    job_id: UUID
    segment: int
    rate_micros_per_hour: int
    limit_micros: int | None
    key_id: UUID | None
    paid_seconds: int
    minutes: int
    billed_seconds: int
    credited_seconds: int
    refused: bool
    closed: bool

    @classmethod
    def of(cls, meter: Meter) -> Self:
        """Return the state of a meter."""
        return cls.model_validate({name: getattr(meter, name) for name in cls.model_fields})


class Meter(Aggregate):
    """The meter of one segment. It numbers the billed minutes, so that it bills none twice."""

    TOPIC: ClassVar[str] = "Meter"
    Event = SegmentEvent

    class MeterOpened(SegmentEvent, Created):
        """The segment's GPUs were allocated, and the account can lease time for it."""

        rate_micros_per_hour: int
        # Highest charge that the job's maximum cost leaves for the segment; None: no maximum.
        limit_micros: int | None
        key_id: UUID | None  # API key against which the charges count

    class SegmentLimitChanged(SegmentEvent):
        """The maximum cost of the job changed, or a credit for an earlier segment left more of it.

        Leases that EcoLink already granted stay valid.
        """

        limit_micros: int | None  # highest charge for the segment; None: no maximum

    class LeaseGranted(SegmentEvent):
        """The account paid for this much segment time in advance, and the segment may launch."""

        paid_seconds: int

    class LeaseExtended(SegmentEvent):
        """The lease was extended. The segment may run for this much time in total."""

        paid_seconds: int

    class LeaseRefused(SegmentEvent):
        """The balance or a spending limit pays for no second. The segment never launches."""

    class MinuteMetered(SegmentEvent):
        """One minute of a segment was billed. The last minute may be partial."""

        minute: int
        from_seconds: int
        to_seconds: int
        amount_micros: int

    class MeterClosed(SegmentEvent):
        """The meter billed the segment to the second and released the rest of its lease."""

        billed_seconds: int
        released_micros: int

    class LostWorkCredited(SegmentEvent):
        """EcoLink credited time that was lost through a fault of the platform."""

        from_seconds: int
        to_seconds: int
        amount_micros: int

    class Snapshot(AggregateSnapshot):
        """A snapshot of a meter's state."""

        TOPIC: ClassVar[str] = "MeterSnapshot"

        state: MeterState

        @classmethod
        def take(cls, aggregate: Any) -> Self:
            """Return a snapshot of a meter."""
            return cls(**cls.header(aggregate), state=MeterState.of(aggregate))

        def mutate(self, _: None) -> Meter:
            """Return the meter as of the snapshot."""
            meter = self.blank(Meter)
            for name in MeterState.model_fields.keys() - {"created_on", "modified_on"}:
                setattr(meter, name, getattr(self.state, name))
            return meter

    def snapshot_events(self) -> int:
        """Return the number of events between two snapshots."""
        return SNAPSHOT_EVENTS

    @classmethod
    def open(
        cls,
        account_id: UUID,
        job_id: UUID,
        segment: int,
        rate_micros_per_hour: int,
        limit_micros: int | None = None,
        key_id: UUID | None = None,
    ) -> Meter:
        """Open the meter of a segment whose GPUs are allocated, and return it.

        `limit_micros` is the highest charge for the segment; None means no limit. `key_id` is the
        API key against which the charges count; None means that they count against no key.
        """
        return cls._create(
            cls.MeterOpened,
            id=meter_id(job_id, segment),
            account_id=account_id,
            job_id=job_id,
            segment=segment,
            rate_micros_per_hour=rate_micros_per_hour,
            limit_micros=limit_micros,
            key_id=key_id,
        )

    @event(MeterOpened)
    def __init__(
        self,
        account_id: UUID,
        job_id: UUID,
        segment: int,
        rate_micros_per_hour: int,
        limit_micros: int | None,
        key_id: UUID | None,
    ) -> None:
        self.account_id = account_id
        self.job_id = job_id
        self.segment = segment
        self.rate_micros_per_hour = rate_micros_per_hour
        self.limit_micros = limit_micros
        self.key_id = key_id
        self.paid_seconds = 0
        self.minutes = 0
        self.billed_seconds = 0
        self.credited_seconds = 0
        self.refused = False
        self.closed = False

    @property
    def snapshot_offset(self) -> int:
        """Offset of its snapshots. Meters that opened together take them in different minutes."""
        return self.id.int % SNAPSHOT_EVENTS

    @property
    def limit_seconds(self) -> int | None:
        """Seconds of segment time that the limit pays for; None if there is no limit."""
        if self.limit_micros is None:
            return None
        return seconds_within(self.limit_micros, self.rate_micros_per_hour)

    @property
    def committed_micros(self) -> int:
        """Charge for the segment without credits. An open lease counts as a whole."""
        seconds = self.billed_seconds - self.credited_seconds if self.closed else self.paid_seconds
        return self.charge_between(0, seconds)

    def _record(self, kind: type[SegmentEvent], **fields: int | None) -> None:
        self.trigger_event(kind, job_id=self.job_id, segment=self.segment, **fields)

    def charge_between(self, from_seconds: int, to_seconds: int) -> int:
        """Return a period's price as a difference of cumulative charges, which adds up exactly."""
        rate = self.rate_micros_per_hour
        return charge_micros(rate, to_seconds) - charge_micros(rate, from_seconds)

    def change_limit(self, limit_micros: int | None) -> None:
        """Change the highest charge for the segment. None removes the limit."""
        self._require_open()
        if limit_micros != self.limit_micros:
            self._record(self.SegmentLimitChanged, limit_micros=limit_micros)

    @event(SegmentLimitChanged)
    def _segment_limit_changed(self, limit_micros: int | None) -> None:
        self.limit_micros = limit_micros

    def extend_lease(self, seconds: int) -> int:
        """Add paid time. Return the micro-dollars that the account must reserve for it."""
        assert seconds > 0
        assert not self.refused
        self._require_open()
        before, after = self.paid_seconds, self.paid_seconds + seconds
        assert self.limit_seconds is None or after <= self.limit_seconds, "beyond the limit"
        self._record(self.LeaseExtended if before else self.LeaseGranted, paid_seconds=after)
        return self.charge_between(before, after)

    @event(LeaseGranted)
    def _lease_granted(self, paid_seconds: int) -> None:
        self.paid_seconds = paid_seconds

    @event(LeaseExtended)
    def _lease_extended(self, paid_seconds: int) -> None:
        self.paid_seconds = paid_seconds

    def refuse_lease(self) -> None:
        """Record once that the balance is too low for the first lease. The refusal is final."""
        assert self.paid_seconds == 0
        self._require_open()
        if not self.refused:
            self._record(self.LeaseRefused)

    @event(LeaseRefused)
    def _lease_refused(self) -> None:
        self.refused = True

    def post_minutes(
        self, elapsed_seconds: int, minute_seconds: int, *, at_most: int | None = None
    ) -> int:
        """Bill whole minutes (`at_most`), and the paid time's last part. Return the charge."""
        self._require_open()
        charge, last = 0, None if at_most is None else self.minutes + at_most
        due = min(elapsed_seconds, self.paid_seconds)
        if due < self.paid_seconds:
            due -= (due - self.billed_seconds) % minute_seconds
        while self.billed_seconds < due and self.minutes != last:
            charge += self._post(min(self.billed_seconds + minute_seconds, due))
        return charge

    def close(self, elapsed_seconds: int, minute_seconds: int) -> tuple[int, int]:
        """Bill to the second. Return the charge and the released lease, in micro-dollars.

        Minutes that were already billed stay billed, even if the final report gives a shorter time.
        """
        charge = self.post_minutes(elapsed_seconds, minute_seconds)
        end = min(elapsed_seconds, self.paid_seconds)
        if end > self.billed_seconds:
            charge += self._post(end)
        released = self.charge_between(self.billed_seconds, self.paid_seconds)
        self._record(self.MeterClosed, billed_seconds=self.billed_seconds, released_micros=released)
        return charge, released

    def _post(self, to_seconds: int) -> int:
        amount = self.charge_between(self.billed_seconds, to_seconds)
        self._record(
            self.MinuteMetered,
            minute=self.minutes + 1,
            from_seconds=self.billed_seconds,
            to_seconds=to_seconds,
            amount_micros=amount,
        )
        return amount

    @event(MinuteMetered)
    def _minute_metered(self, minute: int, to_seconds: int) -> None:
        self.minutes = minute
        self.billed_seconds = to_seconds

    @event(MeterClosed)
    def _meter_closed(self) -> None:
        self.closed = True

    def credit_lost_work(self, kept_seconds: int) -> int:
        """Credit the billed time after the last checkpoint. Return the amount in micro-dollars.

        `kept_seconds` is the segment time that the checkpoint includes. If that checkpoint is lost
        too, a second call credits the time since the previous one.
        """
        assert self.closed
        end = self.billed_seconds - self.credited_seconds
        if kept_seconds >= end:
            return 0
        amount = self.charge_between(kept_seconds, end)
        self._record(
            self.LostWorkCredited, from_seconds=kept_seconds, to_seconds=end, amount_micros=amount
        )
        return amount

    @event(LostWorkCredited)
    def _lost_work_credited(self, from_seconds: int, to_seconds: int) -> None:
        self.credited_seconds += to_seconds - from_seconds

    def _require_open(self) -> None:
        if self.closed:
            raise WrongState(f"The meter of segment {self.segment} is closed.")


# The library registers the topics of events, but not those of snapshots.
register_topic(Meter.Snapshot.TOPIC, Meter.Snapshot)
