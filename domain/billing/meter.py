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
from domain.core.money import charge_micros, charge_within, price_micros, seconds_within
from domain.core.value import Value

SNAPSHOT_EVENTS = 200


class SegmentEvent(Event):
    """Base class of all events of a segment's meter."""

    job_id: UUID
    segment: int


class SegmentLimits(Value):
    """Limits of the charges and the time of a segment. None: no limit."""

    limit_micros: int | None = None  # highest charge that the maximum cost of the job leaves
    # Charge after which the guarantee of the job covers the time.
    guarantee_micros: int | None = None
    most_seconds: int | None = None  # time that the guarantee of the job leaves


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
    guarantee_micros: int | None
    most_seconds: int | None
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

    class MeterOpened(SegmentLimits, SegmentEvent, Created):
        """The segment's GPUs were allocated, and the account can lease time for it."""

        rate_micros_per_hour: int
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
        # Price of a minute that the guarantee covers, whose amount is 0; None: it is charged.
        covered_micros: int | None

        @property
        def covered_seconds(self) -> int:
            """Seconds that the guarantee covers: all or none."""
            return 0 if self.covered_micros is None else self.to_seconds - self.from_seconds

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
        limits: SegmentLimits = SegmentLimits(),
        key_id: UUID | None = None,
    ) -> Meter:
        """Open the meter of a segment whose GPUs are allocated, and return it.

        `key_id` is the API key against which the charges count; None means that they count against
        no key.
        """
        return cls._create(
            cls.MeterOpened,
            id=meter_id(job_id, segment),
            account_id=account_id,
            job_id=job_id,
            segment=segment,
            rate_micros_per_hour=rate_micros_per_hour,
            key_id=key_id,
            **dict(limits),
        )

    @event(MeterOpened)
    def __init__(self, event: MeterOpened) -> None:
        self.account_id = event.account_id
        self.job_id = event.job_id
        self.segment = event.segment
        self.rate_micros_per_hour = event.rate_micros_per_hour
        self.limit_micros = event.limit_micros
        self.guarantee_micros = event.guarantee_micros
        self.most_seconds = event.most_seconds
        self.key_id = event.key_id
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
        """Seconds that the limit pays for and the guarantee allows; None if there is no limit."""
        limits = [self.most_seconds]
        if self.limit_micros is not None:
            limits.append(seconds_within(self.limit_micros, self.rate_micros_per_hour))
        return min((each for each in limits if each is not None), default=None)

    @property
    def charged_seconds(self) -> int | None:
        """Seconds of segment time before the guarantee covers the rest; None: all are charged."""
        if self.guarantee_micros is None:
            return None
        return seconds_within(self.guarantee_micros, self.rate_micros_per_hour)

    @property
    def is_covered(self) -> bool:
        """True if all charged seconds are paid for, so that the lease is extended at no charge."""
        return self.charged_seconds is not None and self.paid_seconds >= self.charged_seconds

    @property
    def second_micros(self) -> int:
        """Highest charge for another second of lease; 0 if the guarantee covers it."""
        return 0 if self.is_covered else price_micros(self.rate_micros_per_hour, 1)

    @property
    def committed_micros(self) -> int:
        """Charge for the segment without credits. An open lease counts as a whole."""
        seconds = self.billed_seconds - self.credited_seconds if self.closed else self.paid_seconds
        return self.charge_between(0, seconds)

    def _record(self, kind: type[SegmentEvent], **fields: int | None) -> None:
        self.trigger_event(kind, job_id=self.job_id, segment=self.segment, **fields)

    def charge_between(self, from_seconds: int, to_seconds: int) -> int:
        """Return a period's price as a difference of cumulative charges, which adds up exactly."""
        rate, limit = self.rate_micros_per_hour, self.guarantee_micros
        return charge_within(rate, to_seconds, limit) - charge_within(rate, from_seconds, limit)

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
        """Bill whole minutes (`at_most`), and the paid time's last part. Return the charge.

        A minute ends where the guarantee begins to cover the time, so that all of it has one price.
        """
        self._require_open()
        charge, last = 0, None if at_most is None else self.minutes + at_most
        due = min(elapsed_seconds, self.paid_seconds)
        if due < self.paid_seconds:
            due -= (due - self.billed_seconds) % minute_seconds
        while self.billed_seconds < due and self.minutes != last:
            charge += self._post(self._minute_end(due, minute_seconds))
        return charge

    def _minute_end(self, due: int, minute_seconds: int) -> int:
        end, charged = min(self.billed_seconds + minute_seconds, due), self.charged_seconds
        return end if charged is None or not self.billed_seconds < charged < end else charged

    def close(self, elapsed_seconds: int, minute_seconds: int) -> tuple[int, int]:
        """Bill to the second. Return the charge and the released lease, in micro-dollars.

        Minutes that were already billed stay billed, even if the final report gives a shorter time.
        """
        charge = self.post_minutes(elapsed_seconds, minute_seconds)
        end = min(elapsed_seconds, self.paid_seconds)
        while self.billed_seconds < end:
            charge += self._post(self._minute_end(end, minute_seconds))
        released = self.charge_between(self.billed_seconds, self.paid_seconds)
        self._record(self.MeterClosed, billed_seconds=self.billed_seconds, released_micros=released)
        return charge, released

    def _post(self, to_seconds: int) -> int:
        rate, start, charged = self.rate_micros_per_hour, self.billed_seconds, self.charged_seconds
        amount = self.charge_between(start, to_seconds)
        price = charge_micros(rate, to_seconds) - charge_micros(rate, start)
        is_covered = charged is not None and start >= charged
        self._record(
            self.MinuteMetered,
            minute=self.minutes + 1,
            from_seconds=start,
            to_seconds=to_seconds,
            amount_micros=amount,
            covered_micros=price if is_covered else None,
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
