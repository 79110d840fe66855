"""Bills of a period under other prices, or with segments rounded to minutes.

The replay assumes the same work: each segment runs as long as it did, even if its account could
not have paid the other price.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from domain.audit.sealed_event import StoredRow
from domain.core.money import charge_micros
from extensions.invoices.domain.invoice import Period
from extensions.invoices.domain.money_events import (
    Gpus,
    Inconsistent,
    JobApproved,
    JobResumed,
    LostWorkCredited,
    MeterOpened,
    MinuteMetered,
    SegmentAllocated,
    read,
)

JOBS = tuple(kind.__name__ for kind in (JobApproved, JobResumed, SegmentAllocated))
METERS = (MeterOpened.__name__,)
CHARGES = (MinuteMetered.__name__, LostWorkCredited.__name__)
TOPICS = (*JOBS, *METERS, *CHARGES)
"""Topics of the events that a replay needs: those of jobs, and of meters and their charges."""

MINUTE_SECONDS = 60


class Rounding(StrEnum):
    """Unit to which the time of a segment is rounded up."""

    SECOND = "second"
    MINUTE = "minute"

    def round_up(self, seconds: int) -> int:
        """Return the billed seconds of a segment time."""
        unit = MINUTE_SECONDS if self is Rounding.MINUTE else 1
        return -(-seconds // unit) * unit


class Group(NamedTuple):
    """The jobs of one account on one GPU type."""

    account_id: UUID
    gpu_type: str


@dataclass(frozen=True)
class Comparison:
    """Net charges after credits for lost work, and what they would have been, in micro-dollars."""

    seconds: int = 0
    charged_micros: int = 0
    repriced_micros: int = 0

    @property
    def difference_micros(self) -> int:
        """Additional cost at the other prices. It is negative if they are lower."""
        return self.repriced_micros - self.charged_micros

    def __add__(self, other: Comparison) -> Comparison:
        return Comparison(
            self.seconds + other.seconds,
            self.charged_micros + other.charged_micros,
            self.repriced_micros + other.repriced_micros,
        )


class _Segment(NamedTuple):
    group: Group
    rate_micros_per_hour: int
    charged_seconds: int | None  # the price guarantee covers the rest; None: all are charged


def reprice(
    rows: Iterable[StoredRow],
    prices: Mapping[str, int],
    rounding: Rounding = Rounding.SECOND,
    period: Period | None = None,
) -> dict[Group, Comparison]:
    """Return the comparison for each account and GPU type, in the order of their first charges.

    `rows` are the events with TOPICS, in the order of the log. `prices` are micro-dollars per hour
    of one GPU. GPU types without a price keep the rate that was charged. Without a period, the
    whole log counts. Raise Inconsistent if an event is missing or cannot be read.
    """
    gpus: dict[UUID, Gpus] = {}  # of the next segment, by job
    allocated: dict[tuple[UUID, int], Gpus] = {}
    segments: dict[UUID, _Segment] = {}
    compared: dict[Group, Comparison] = {}
    for row in rows:
        event, id = read(row).event, UUID(bytes=row.originator_id)
        match event:
            case JobApproved():
                gpus[id] = event.plan
            case JobResumed() if id in gpus:
                gpus[id] = gpus[id].model_copy(update={"gpu_count": event.gpu_count})
            case SegmentAllocated() if id in gpus:
                allocated[id, event.segment] = gpus[id]
            case MeterOpened():
                used = allocated.pop((event.job_id, event.segment), None)
                if used is None:
                    raise Inconsistent(
                        f"The event that allocated GPUs to segment {event.segment} of job "
                        f"{event.job_id} is missing."
                    )
                price = prices.get(used.gpu_type)
                rate = event.rate_micros_per_hour if price is None else price * used.gpu_count
                group = Group(event.account_id, used.gpu_type)
                segments[id] = _Segment(group, rate, event.charged_seconds)
            case MinuteMetered() | LostWorkCredited():
                segment = segments.get(id)
                if segment is None:
                    raise Inconsistent(f"Event {row.notification_id} has no meter.")
                if period is None or event.timestamp in period:
                    other = _price(segment, event, rounding)
                    sign = 1 if isinstance(event, MinuteMetered) else -1
                    added = Comparison(
                        sign * event.seconds, sign * event.amount_micros, sign * other
                    )
                    compared[segment.group] = compared.get(segment.group, Comparison()) + added
            case _:
                pass
    return compared


def by_account(compared: Mapping[Group, Comparison]) -> dict[UUID, Comparison]:
    """Return the sums for each account."""
    sums: dict[UUID, Comparison] = {}
    for group, each in compared.items():
        sums[group.account_id] = sums.get(group.account_id, Comparison()) + each
    return sums


def by_gpu_type(compared: Mapping[Group, Comparison]) -> dict[str, Comparison]:
    """Return the sums for each GPU type."""
    sums: dict[str, Comparison] = {}
    for group, each in compared.items():
        sums[group.gpu_type] = sums.get(group.gpu_type, Comparison()) + each
    return sums


def _price(segment: _Segment, event: MinuteMetered | LostWorkCredited, rounding: Rounding) -> int:
    """Return the other price of a period, as a difference of cumulative charges."""
    rate, charged = segment.rate_micros_per_hour, segment.charged_seconds

    def until(seconds: int) -> int:
        seconds = seconds if charged is None else min(seconds, charged)
        return charge_micros(rate, rounding.round_up(seconds))

    return until(event.to_seconds) - until(event.from_seconds)
