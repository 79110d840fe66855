"""The invoice of an account for a period, calculated from stored events alone.

The account's events since its first one give the opening balance. The meters' events give the
charges: each minute is checked against the meter's rate, the rate against the approval or resume of
the job that was in force, and each deduction from the balance against the minutes of the same
command.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal, Self
from uuid import UUID

from pydantic import AwareDatetime, Field, model_validator

from domain.audit.sealed_event import StoredRow
from domain.core.identity import meter_id
from domain.core.money import charge_micros, exact_dollars
from domain.core.value import Value
from extensions.invoices.domain.approved_rates import (
    ApprovedJob,
    approved_job,
    entries_until,
    require_approved_rate,
)
from extensions.invoices.domain.money_events import (
    AccountOpened,
    ChargeReversed,
    CreditGranted,
    Entry,
    Inconsistent,
    JobApproved,
    LostWorkCredited,
    MeterOpened,
    MinuteMetered,
    SegmentTime,
    SynthesisApproved,
    TokenMeterOpened,
    TokensMetered,
    ToppedUp,
    TopUpRestored,
    TopUpWithheld,
    UsageSettled,
    streams_of,
)
from extensions.invoices.domain.token_charges import (
    TokenCharges,
    TokenLine,
    lines_of,
    require_approved_rates,
    token_charges,
)


class Period(Value):
    """A period of time, from `start` up to but not including `end`."""

    start: AwareDatetime
    end: AwareDatetime

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.start >= self.end:
            raise ValueError(f"The period ends at {self.end}, not after its start {self.start}.")
        return self

    @classmethod
    def month(cls, text: str) -> Period:
        """Return a calendar month in UTC, such as `2026-11`. Raise ValueError."""
        try:
            start = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
            end = (start + timedelta(days=31)).replace(day=1)
        except (ValueError, OverflowError):
            raise ValueError(f"{text!r} is not a month. Enter one such as 2026-11.") from None
        return cls(start=start, end=end)

    @property
    def last_day(self) -> date:
        """The UTC day of the last moment."""
        return (self.end - timedelta(microseconds=1)).astimezone(UTC).date()

    @classmethod
    def days(cls, first: date, last: date) -> Period:
        """Return the days from `first` to `last` in UTC, both included. Raise ValueError."""
        start = datetime.combine(first, time.min, UTC)
        return cls(start=start, end=datetime.combine(last, time.min, UTC) + timedelta(days=1))

    def __contains__(self, moment: datetime) -> bool:
        return self.start <= moment < self.end


PaidInKind = Literal["top-up", "credit", "refund"]


class PaidIn(Value):
    """A payment, credit that an operator granted, or a refunded or disputed part of a payment.

    The amount of a refund is negative, unless the part is in the balance again.
    """

    at: AwareDatetime
    kind: PaidInKind
    provider: str | None
    reference: str
    amount_micros: int


class Line(Value):
    """The charges for one job at one rate, and the credits for its lost work."""

    job_id: UUID
    gpu_type: str
    rate_micros_per_hour: int  # of all its GPUs
    segments: int
    seconds: int
    amount_micros: int
    # Part of the seconds that the price guarantee covers, and its price, which is not charged. A
    # file without covered time omits both.
    covered_seconds: int = Field(default=0, exclude_if=lambda seconds: seconds == 0)
    covered_micros: int = Field(default=0, exclude_if=lambda micros: micros == 0)
    credited_seconds: int
    credited_micros: int


class Invoice(Value):
    """An invoice in micro-dollars. The closing balance follows from the other amounts."""

    account_id: UUID
    currency: str
    period: Period
    opening_micros: int
    paid_in: tuple[PaidIn, ...]
    lines: tuple[Line, ...]
    # A file without charges for tokens omits it, as files made before syntheses existed do.
    tokens: tuple[TokenLine, ...] = Field(default=(), exclude_if=lambda lines: not lines)
    top_ups_micros: int
    # Negative, unless more was restored. A file without refunds omits it, as files made before
    # refunds existed do, because the signature covers the bytes.
    refunds_micros: int = Field(default=0, exclude_if=lambda micros: micros == 0)
    credits_micros: int
    charges_micros: int
    lost_work_micros: int
    closing_micros: int


def invoice_of(account_id: UUID, period: Period, rows: Iterable[StoredRow]) -> Invoice:
    """Calculate the invoice from the rows that `rows_for` selects.

    Raise Inconsistent if an event is missing, contradicts another one or does not belong here.
    """
    streams = streams_of(rows)
    account = streams.pop(account_id, [])
    opened = account[0].event if account else None
    if not isinstance(opened, AccountOpened):
        raise Inconsistent(f"The event that opened account {account_id} is missing.")
    jobs: dict[UUID, ApprovedJob] = {}
    meters: list[_Meter] = []
    approved: dict[UUID, SynthesisApproved] = {}
    tokens: list[TokenCharges] = []
    for id, entries in streams.items():
        first = entries[0].event
        if any(entry.event.account_id != account_id for entry in entries):
            raise Inconsistent(f"{id} does not belong to account {account_id}.")
        if isinstance(first, MeterOpened):
            meters.append(_meter(id, first, entries))
        elif isinstance(first, JobApproved):
            jobs[id] = approved_job(id, first, entries)
        elif isinstance(first, TokenMeterOpened):
            tokens.append(token_charges(id, first, entries))
        elif isinstance(first, SynthesisApproved):
            approved[id] = first
        else:
            raise Inconsistent(f"{id} is neither a meter nor a job nor a synthesis.")
    meters.sort(key=lambda each: each.opened_by)
    for meter in meters:
        require_approved_rate(meter.opened, jobs.get(meter.opened.job_id))
    for each in tokens:
        require_approved_rates(each.opened, approved.get(each.opened.synthesis_id))
    moved = _Movements(account, period)
    _require_same_charges(moved, meters, tokens, period)
    _require_same_credits(moved, meters, period)
    return Invoice(
        account_id=account_id,
        currency=opened.currency,
        period=period,
        opening_micros=_balance(account, period.start),
        paid_in=tuple(moved.paid_in),
        lines=tuple(_lines(meters, jobs, period)),
        tokens=lines_of(tokens, period),
        top_ups_micros=sum(each.amount_micros for each in moved.paid_in if each.kind == "top-up"),
        refunds_micros=sum(each.amount_micros for each in moved.paid_in if each.kind == "refund"),
        credits_micros=sum(each.amount_micros for each in moved.paid_in if each.kind == "credit"),
        charges_micros=moved.captured.total(),
        lost_work_micros=sum(each.amount_micros for each in moved.reversed),
        closing_micros=_balance(account, period.end),
    )


def rows_for(account_id: UUID, period: Period, rows: Iterable[StoredRow]) -> list[StoredRow]:
    """Return those of an account's rows that its invoice rests on, in the order of the log.

    These are the account's events up to the first one after the period, the events of each meter
    that charged or credited time in the period, and the events of the meters' jobs up to the
    allocation of the last such segment. The meters of tokens likewise need the approvals of their
    syntheses. Raise Inconsistent if a row is missing or cannot be read.
    """
    needed: list[StoredRow] = []
    last_segments: dict[UUID, int] = {}
    syntheses: list[UUID] = []
    streams = streams_of(rows)
    for id, entries in streams.items():
        if id == account_id:
            last = _last([each.event.timestamp < period.end for each in entries])
            needed += [each.row for each in entries[: last + 2]]
        elif isinstance(opened := entries[0].event, MeterOpened):
            last = _last(
                [
                    isinstance(each.event, SegmentTime) and each.event.timestamp in period
                    for each in entries
                ]
            )
            if last >= 0:
                previous = last_segments.get(opened.job_id, 0)
                last_segments[opened.job_id] = max(previous, opened.segment)
                needed += [each.row for each in entries[: last + 1]]
        elif isinstance(opened, TokenMeterOpened):
            last = _last(
                [
                    isinstance(each.event, TokensMetered) and each.event.timestamp in period
                    for each in entries
                ]
            )
            if last >= 0:
                syntheses.append(opened.synthesis_id)
                needed += [each.row for each in entries[: last + 1]]
    needed += [each.row for id in syntheses for each in streams.get(id, [])[:1]]
    for id, segment in last_segments.items():
        needed += [each.row for each in entries_until(streams.get(id, []), segment)]
    return sorted(needed)


def is_followed(account_id: UUID, period: Period, rows: Iterable[StoredRow]) -> bool:
    """Return True if the rows have an event of the account after the period.

    Then no event of the account in the period is missing, because its versions have no gaps.
    """
    entries = streams_of(rows).get(account_id, [])
    return bool(entries) and entries[-1].event.timestamp >= period.end


def _last(wanted: Sequence[bool]) -> int:
    """Return the index of the last True, or -1."""
    return max((index for index, is_wanted in enumerate(wanted) if is_wanted), default=-1)


def _balance(account: Sequence[Entry], until: datetime) -> int:
    """Return the balance before a moment, including reserves, in micro-dollars."""
    micros = 0
    for _, event in account:
        if event.timestamp < until:
            match event:
                case CreditGranted() | ToppedUp() | ChargeReversed() | TopUpRestored():
                    micros += event.amount_micros
                case TopUpWithheld():
                    micros -= event.amount_micros
                case UsageSettled():
                    micros -= event.captured_micros
                case _:
                    pass
    return micros


class _Movements:
    """The account's movements in a period."""

    def __init__(self, account: Sequence[Entry], period: Period) -> None:
        self.paid_in: list[PaidIn] = []
        self.captured = Counter[str]()  # micro-dollars by command
        self.reversed: list[ChargeReversed] = []
        for _, event in account:
            if event.timestamp not in period:
                continue
            match event:
                case CreditGranted():
                    self.paid_in.append(_paid_in(event, "credit", event.amount_micros))
                case ToppedUp():
                    self.paid_in.append(_paid_in(event, "top-up", event.amount_micros))
                case TopUpRestored():
                    self.paid_in.append(_paid_in(event, "refund", event.amount_micros))
                case TopUpWithheld():
                    self.paid_in.append(_paid_in(event, "refund", -event.amount_micros))
                case UsageSettled():
                    self.captured[event.command_id] += event.captured_micros
                case ChargeReversed():
                    self.reversed.append(event)
                case _:
                    pass


def _paid_in(
    event: CreditGranted | ToppedUp | TopUpWithheld, kind: PaidInKind, amount_micros: int
) -> PaidIn:
    return PaidIn(
        at=event.timestamp,
        kind=kind,
        provider=None if isinstance(event, CreditGranted) else event.provider,
        reference=event.reference,
        amount_micros=amount_micros,
    )


@dataclass
class _Meter:
    """The checked events of one meter."""

    opened: MeterOpened
    opened_by: int  # notification id
    minutes: list[MinuteMetered] = field(default_factory=list[MinuteMetered])
    credits: list[LostWorkCredited] = field(default_factory=list[LostWorkCredited])


def _meter(id: UUID, opened: MeterOpened, entries: Sequence[Entry]) -> _Meter:
    """Check that each minute follows the previous one and costs what the rate says."""
    if id != meter_id(opened.job_id, opened.segment):
        raise Inconsistent(f"{id} is not the meter of segment {opened.segment} of its job.")
    meter = _Meter(opened, entries[0].row.notification_id)
    billed = credited = 0
    for row, event in entries[1:]:
        if not isinstance(event, SegmentTime):
            continue
        start, end, rate = event.from_seconds, event.to_seconds, opened.rate_micros_per_hour
        name = f"Event {row.notification_id} ({row.topic})"
        if (event.job_id, event.segment) != (opened.job_id, opened.segment):
            raise Inconsistent(f"{name} is of another segment than its meter.")
        if not 0 <= start < end:
            raise Inconsistent(f"{name} is of the seconds {start} to {end}.")
        price = opened.charge(event)
        if event.amount_micros != price:
            raise Inconsistent(
                f"{name} is of {event.amount_micros} micro-dollars. At "
                f"{exact_dollars(rate)} an hour, the seconds {start} to {end} cost {price}."
            )
        if isinstance(event, MinuteMetered):
            if start != billed:
                raise Inconsistent(f"{name} starts at second {start}. {billed} is expected.")
            listed = charge_micros(rate, end) - charge_micros(rate, start)
            if price + (event.covered_micros or 0) != listed:
                raise Inconsistent(f"{name} covers {event.covered_micros}, not {listed - price}.")
            billed = end
            meter.minutes.append(event)
        elif isinstance(event, LostWorkCredited):
            if end != billed - credited:
                raise Inconsistent(f"{name} ends at second {end}. {billed - credited} is expected.")
            credited += event.seconds
            meter.credits.append(event)
    return meter


def _require_same_charges(
    moved: _Movements,
    meters: Sequence[_Meter],
    tokens: Sequence[TokenCharges],
    period: Period,
) -> None:
    """Raise Inconsistent unless each command deducted the price of its minutes and tokens."""
    metered = Counter[str]()
    for each in tokens:
        metered += each.captured(period)
    for meter in meters:
        for minute in meter.minutes:
            if minute.timestamp in period:
                metered[minute.command_id] += minute.amount_micros
    for command_id in sorted(moved.captured.keys() | metered.keys()):
        captured, minutes = moved.captured[command_id], metered[command_id]
        if captured != minutes:
            raise Inconsistent(
                f"The command {command_id!r} deducted {captured} micro-dollars from the balance, "
                f"but metered {minutes}."
            )


def _require_same_credits(moved: _Movements, meters: Sequence[_Meter], period: Period) -> None:
    """Raise Inconsistent unless each credit of a meter is in the balance, and no other.

    A credit that rounds to 0 is not in the balance.
    """
    credited = Counter(
        _work(each)
        for meter in meters
        for each in meter.credits
        if each.timestamp in period and each.amount_micros
    )
    in_balance = Counter(_work(each) for each in moved.reversed)
    for job_id, segment, start, end, amount in (credited - in_balance) + (in_balance - credited):
        raise Inconsistent(
            f"The credit of {amount} micro-dollars for the seconds {start} to {end} of segment "
            f"{segment} of job {job_id} is not both in the balance and in the meter."
        )


def _work(event: SegmentTime) -> tuple[UUID, int, int, int, int]:
    return (
        event.job_id,
        event.segment,
        event.from_seconds,
        event.to_seconds,
        event.amount_micros,
    )


def _lines(
    meters: Sequence[_Meter], jobs: dict[UUID, ApprovedJob], period: Period
) -> Iterable[Line]:
    """Yield a line for each job and rate, in the order in which the meters were opened."""
    by_line: dict[tuple[UUID, int], list[_Meter]] = {}
    for meter in meters:
        key = meter.opened.job_id, meter.opened.rate_micros_per_hour
        by_line.setdefault(key, []).append(meter)
    for (job_id, rate), own in by_line.items():
        minutes = [[each for each in meter.minutes if each.timestamp in period] for meter in own]
        credits = [each for meter in own for each in meter.credits if each.timestamp in period]
        covered = [each for some in minutes for each in some if each.covered_micros is not None]
        yield Line(
            job_id=job_id,
            gpu_type=jobs[job_id].gpu_type,
            rate_micros_per_hour=rate,
            segments=sum(1 for each in minutes if each),
            seconds=sum(each.seconds for some in minutes for each in some),
            amount_micros=sum(each.amount_micros for some in minutes for each in some),
            covered_seconds=sum(each.seconds for each in covered),
            covered_micros=sum(each.covered_micros or 0 for each in covered),
            credited_seconds=sum(each.seconds for each in credits),
            credited_micros=sum(each.amount_micros for each in credits),
        )
