"""The arithmetic of one account's tick: minutes billed, leases extended, all in step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.core.money import SECONDS_PER_HOUR, seconds_bought
from infrastructure.settings import Settings

SAVE_EVENTS = 400
"""Most minutes and leases of one tick of an account; what is due beyond waits for the next."""

LOW_MINUTES = 15
"""Runway under which an account is warned, metered minutes."""


@dataclass(frozen=True)
class LeasePolicy:
    """Lengths, seconds of segment time."""

    minute_seconds: int
    lease_seconds: int
    extension_seconds: int

    def __post_init__(self) -> None:
        # A segment that ends may have all its lease to bill, in one save.
        if self.lease_seconds > SAVE_EVENTS * self.minute_seconds:
            raise ValueError(f"a lease must not be longer than {SAVE_EVENTS} metered minutes")

    @property
    def low_seconds(self) -> int:
        """Runway under which an account is warned."""
        return LOW_MINUTES * self.minute_seconds

    @classmethod
    def of(cls, settings: Settings) -> LeasePolicy:
        """The policy that an operator configured."""
        return cls(
            minute_seconds=settings.meter_minute_seconds,
            lease_seconds=settings.lease_seconds,
            extension_seconds=settings.lease_extension_seconds,
        )


@dataclass(frozen=True)
class Running:
    """An open meter and the evidence of how long its segment has run, whole seconds."""

    meter: Meter
    elapsed_seconds: int

    @property
    def used_seconds(self) -> int:
        """Paid time that the segment has used; without a lease it cannot have run.

        What was billed stays used, should a clock have jumped back since.
        """
        return min(max(self.elapsed_seconds, self.meter.billed_seconds), self.meter.paid_seconds)

    @property
    def lapsed(self) -> bool:
        """Whether the segment has used all that was paid for: it is saving and exiting by now."""
        return 0 < self.meter.paid_seconds <= self.used_seconds


def settle(account: Account, open_meters: Sequence[Running], policy: LeasePolicy) -> None:
    """Bill what is due and extend the leases of everything that an account runs.

    A full lease reaches `lease_seconds` beyond the evidence; once that adds `extension_seconds` to
    one of them, all are extended. When the balance cannot carry that, all segments get what it
    carries to the same second, so that they reach zero together. A lease that has lapsed is not
    extended: its segment is in its grace, which is nobody's bill, and what follows is a new one.
    A segment whose lease was refused does not run at all. An account that runs nothing is no longer
    low, so that it is warned again when something runs.
    """
    running = [each for each in open_meters if not each.meter.refused]
    captured, posted = _post_minutes(running, policy)
    account.settle(
        captured_micros=captured,
        reserved_micros=_extend_leases(account, running, policy, SAVE_EVENTS - posted),
        second_micros=second_micros([each.meter for each in running]),
    )
    runway = runway_seconds(account, running)
    # While a lease holds money something runs, also if the caller has yet to see its meter.
    if runway is not None or account.reserved_micros == 0:
        account.watch_runway(runway, policy.low_seconds)


def _post_minutes(running: Sequence[Running], policy: LeasePolicy) -> tuple[int, int]:
    """Bill the minutes that the evidence shows; returns (charge, how many were posted)."""
    captured, posted = 0, 0
    for each in running:
        before = each.meter.minutes
        captured += each.meter.post_minutes(
            each.elapsed_seconds, policy.minute_seconds, at_most=SAVE_EVENTS - posted
        )
        posted += each.meter.minutes - before
    return captured, posted


def _extend_leases(
    account: Account, running: Sequence[Running], policy: LeasePolicy, at_most: int
) -> int:
    """Extend up to `at_most` leases, if one is due; returns what to reserve, micro-dollars."""
    leased = [each for each in running if not each.lapsed]
    ahead = _affordable_ahead(leased, account.available_micros, policy.lease_seconds)
    least = policy.extension_seconds if ahead == policy.lease_seconds else 1
    missing = [
        (each.meter, seconds)
        for each in leased
        if (seconds := each.used_seconds + ahead - each.meter.paid_seconds) > 0
    ]
    if not any(seconds >= least or meter.paid_seconds == 0 for meter, seconds in missing):
        return 0
    return sum(meter.extend_lease(seconds) for meter, seconds in missing[:at_most])


def open_meter(account: Account, meter: Meter, policy: LeasePolicy) -> None:
    """Give a new meter its first lease, or refuse it when no second of it can be paid.

    Only the ticker sees all that an account runs, and so it alone judges depletion and runway.
    """
    ahead = _affordable_ahead([Running(meter, 0)], account.available_micros, policy.lease_seconds)
    if ahead == 0:
        meter.refuse_lease()
    else:
        account.settle(captured_micros=0, reserved_micros=meter.extend_lease(ahead))


def close(
    account: Account,
    meter: Meter,
    elapsed_seconds: int,
    kept_seconds: int,
    policy: LeasePolicy,
) -> None:
    """Settle a segment that ended to the second, and give back what its checkpoint lacks.

    `kept_seconds` is how much of its time is in its last checkpoint, or all of its time when the
    platform lost none; the rest is credited, be it lost work or what a wrong clock had shown before
    the last word. The account can only be depleted when nothing else holds a lease: as long
    as something does, what is left pays for more of it.
    """
    charge, released = meter.close(elapsed_seconds, policy.minute_seconds)
    lost = meter.charge_between(min(kept_seconds, meter.billed_seconds), meter.billed_seconds)
    is_last = account.reserved_micros == charge + released
    account.settle(
        captured_micros=charge,
        reserved_micros=-released,
        second_micros=second_micros([meter]) if is_last and not lost else 0,
    )
    credit_lost_work(account, meter, kept_seconds)


def credit_lost_work(account: Account, meter: Meter, kept_seconds: int) -> None:
    """Give back what a closed meter billed beyond the time whose work is kept, and has not yet."""
    billed_seconds = meter.billed_seconds - meter.credited_seconds
    if credit := meter.credit_lost_work(kept_seconds):
        account.reverse_charge(credit, meter.job_id, meter.segment, kept_seconds, billed_seconds)


def second_micros(meters: Sequence[Meter]) -> int:
    """The most that a second of some segments together can cost, micro-dollars.

    Each segment's charge is rounded by itself, so that any of its seconds may be its dearer one.
    """
    return sum(-(-meter.rate_micros_per_hour // SECONDS_PER_HOUR) for meter in meters)


def runway_seconds(account: Account, running: Sequence[Running]) -> int | None:
    """How long the balance lasts at the rate of all that runs; None when that costs nothing.

    Time that was used and not billed yet is spent already.
    """
    rate = sum(each.meter.rate_micros_per_hour for each in running)
    spent = sum(
        each.meter.charge_between(each.meter.billed_seconds, each.used_seconds) for each in running
    )
    return seconds_bought(account.balance_micros - spent, rate)


def _affordable_ahead(running: Sequence[Running], available_micros: int, limit: int) -> int:
    """Most seconds beyond the evidence, up to `limit`, that the balance can lease to all alike."""

    def cost(ahead: int) -> int:
        return sum(
            each.meter.charge_between(
                each.meter.paid_seconds,
                max(each.meter.paid_seconds, each.used_seconds + ahead),
            )
            for each in running
        )

    if cost(limit) <= available_micros:
        return limit
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if cost(middle) <= available_micros:
            low = middle
        else:
            high = middle - 1
    return low
