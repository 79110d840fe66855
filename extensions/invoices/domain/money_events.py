"""Stored events that determine bills, read from their rows.

Aggregates are not involved, so that the calculation of an invoice is independent of the code that
billed it. Fields that do not matter here are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, NamedTuple
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from domain.audit.sealed_event import StoredRow
from domain.core.money import charge_within, seconds_within


class Inconsistent(Exception):
    """Stored events contradict each other, one is missing, or one cannot be read."""


class Stored(BaseModel):
    """Base class of all events that are read here."""

    model_config = ConfigDict(frozen=True)

    account_id: UUID
    timestamp: AwareDatetime
    command_id: str


class AccountOpened(Stored):
    """An account was opened."""

    currency: str


class CreditGranted(Stored):
    """An operator granted credit."""

    amount_micros: int
    reference: str


class ToppedUp(Stored):
    """A payment was added to the balance."""

    amount_micros: int
    provider: str
    reference: str


class TopUpWithheld(Stored):
    """A refunded or disputed part of a payment was taken from the balance."""

    amount_micros: int
    provider: str
    reference: str


class TopUpRestored(TopUpWithheld):
    """A part that was taken from the balance is in it again."""


class UsageSettled(Stored):
    """Charges were deducted from the balance."""

    captured_micros: int


class SegmentTime(Stored):
    """A period of a segment's time and its price. `to_seconds` is not included."""

    job_id: UUID
    segment: int
    from_seconds: int
    to_seconds: int
    amount_micros: int

    @property
    def seconds(self) -> int:
        """Length of the period."""
        return self.to_seconds - self.from_seconds


class ChargeReversed(SegmentTime):
    """A charge was credited back to the account."""


class MinuteMetered(SegmentTime):
    """A minute of a segment, or its last part, was charged, or covered by a price guarantee."""

    covered_micros: int | None = None


class LostWorkCredited(SegmentTime):
    """A meter credited time that was lost through a fault of the platform."""


class MeterOpened(Stored):
    """A segment's meter was opened, at the hourly rate of all its GPUs."""

    job_id: UUID
    segment: int
    rate_micros_per_hour: Annotated[int, Field(ge=0)]
    guarantee_micros: Annotated[int, Field(ge=0)] | None = None

    @property
    def charged_seconds(self) -> int | None:
        """Seconds before the guarantee covers the rest; None: all are charged."""
        limit = self.guarantee_micros
        return None if limit is None else seconds_within(limit, self.rate_micros_per_hour)

    def charge(self, period: SegmentTime) -> int:
        """Return the price of a period of the segment, less what the guarantee covers."""
        rate, limit = self.rate_micros_per_hour, self.guarantee_micros
        return charge_within(rate, period.to_seconds, limit) - charge_within(
            rate, period.from_seconds, limit
        )


class Gpus(BaseModel):
    """GPUs in the plan of a job."""

    model_config = ConfigDict(frozen=True)

    gpu_type: str
    gpu_count: int


class Plan(Gpus):
    """The plan of a job, with the hourly rate of all its GPUs."""

    rate_micros_per_hour: Annotated[int, Field(ge=0)]


class JobApproved(Stored):
    """An account holder approved a job and its rate."""

    plan: Plan


class JobResumed(Stored):
    """An account holder resumed a job at a new rate, on another number of GPUs if they chose so."""

    gpu_count: int
    rate_micros_per_hour: Annotated[int, Field(ge=0)]


class SegmentAllocated(Stored):
    """GPUs were allocated to a segment of a job."""

    segment: int


class Rates(BaseModel):
    """Prices of tokens, in micro-dollars per million."""

    model_config = ConfigDict(frozen=True)

    prompt_micros: Annotated[int, Field(ge=0)]
    completion_micros: Annotated[int, Field(ge=0)]


class Usage(BaseModel):
    """Numbers of tokens."""

    model_config = ConfigDict(frozen=True)

    prompt_tokens: Annotated[int, Field(ge=0)]
    completion_tokens: Annotated[int, Field(ge=0)]


class SynthesisPlan(BaseModel):
    """The plan of a synthesis, with its rates."""

    model_config = ConfigDict(frozen=True)

    rates: Rates


class SynthesisApproved(Stored):
    """An account holder approved a synthesis and its rates."""

    plan: SynthesisPlan


class TokenMeterOpened(Stored):
    """The meter of a synthesis was opened."""

    synthesis_id: UUID
    rates: Rates


class TokensMetered(Stored):
    """The tokens of a batch were charged. `usage` has those of all batches so far."""

    synthesis_id: UUID
    usage: Usage
    amount_micros: int


class Ignored(Stored):
    """Any other event. It moves no money."""


KINDS: Mapping[str, type[Stored]] = {
    kind.__name__: kind
    for kind in (
        *(AccountOpened, CreditGranted, ToppedUp, UsageSettled, ChargeReversed),
        *(TopUpWithheld, TopUpRestored),
        *(MeterOpened, MinuteMetered, LostWorkCredited),
        *(JobApproved, JobResumed, SegmentAllocated),
        *(SynthesisApproved, TokenMeterOpened, TokensMetered),
    )
}
"""Classes by topic."""


class Entry(NamedTuple):
    """A stored event with its row."""

    row: StoredRow
    event: Stored


def read(row: StoredRow) -> Entry:
    """Return the event in a row. Raise Inconsistent if it cannot be read."""
    try:
        return Entry(row, KINDS.get(row.topic, Ignored).model_validate_json(row.state))
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"])) or "state"
        raise Inconsistent(
            f"Event {row.notification_id} ({row.topic}) cannot be read: {field}: {problem['msg']}."
        ) from error


def streams_of(rows: Iterable[StoredRow]) -> dict[UUID, list[Entry]]:
    """Return the events of each aggregate, in order. Raise Inconsistent if one is missing.

    The versions of an aggregate's events are 1, 2, 3 and so on, so a missing one shows.
    """
    streams: dict[UUID, list[Entry]] = {}
    for row in sorted(rows, key=lambda each: (each.originator_id, each.originator_version)):
        id = UUID(bytes=row.originator_id)
        stream = streams.setdefault(id, [])
        if row.originator_version != len(stream) + 1:
            raise Inconsistent(
                f"Event {row.notification_id} is version {row.originator_version} of {id}. "
                f"Version {len(stream) + 1} is expected."
            )
        stream.append(read(row))
    return streams
