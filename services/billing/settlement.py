"""The arithmetic of one account's tick: minutes billed, leases extended, all in step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from domain.account import Account
from domain.meter import Meter
from domain.money import SECONDS_PER_HOUR
from infrastructure.settings import Settings


@dataclass(frozen=True)
class LeasePolicy:
    """Lengths, seconds of segment time."""

    minute_seconds: int
    lease_seconds: int
    extension_seconds: int

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
        """Paid time that the segment has used; without a lease it cannot have run."""
        return min(self.elapsed_seconds, self.meter.paid_seconds)

    @property
    def lapsed(self) -> bool:
        """Whether the segment has used all that was paid for: it is saving and exiting by now."""
        return 0 < self.meter.paid_seconds <= self.elapsed_seconds


def settle(account: Account, running: Sequence[Running], policy: LeasePolicy) -> None:
    """Bill what is due and extend the leases of everything that an account runs.

    A full lease reaches `lease_seconds` beyond the evidence; once that adds `extension_seconds` to
    one of them, all are extended. When the balance cannot carry that, all segments get what it
    carries to the same second, so that they reach zero together. A lease that has lapsed is not
    extended: its segment is in its grace, which is nobody's bill, and what follows is a new one.
    """
    captured = sum(
        each.meter.post_minutes(each.elapsed_seconds, policy.minute_seconds) for each in running
    )
    leased = [each for each in running if not each.lapsed]
    ahead = _affordable_ahead(leased, account.available_micros, policy.lease_seconds)
    least = policy.extension_seconds if ahead == policy.lease_seconds else 1
    missing = [each.used_seconds + ahead - each.meter.paid_seconds for each in leased]
    due = any(
        seconds >= least or each.meter.paid_seconds == 0
        for each, seconds in zip(leased, missing, strict=True)
    )
    reserved = sum(
        each.meter.extend_lease(seconds)
        for each, seconds in zip(leased, missing, strict=True)
        if due and seconds > 0
    )
    account.settle(
        captured_micros=captured,
        reserved_micros=reserved,
        second_micros=second_micros([each.meter for each in running]),
    )


def close(
    account: Account,
    meter: Meter,
    elapsed_seconds: int,
    kept_seconds: int,
    policy: LeasePolicy,
) -> None:
    """Settle a segment that ended to the second, and give back what its checkpoint lacks.

    `kept_seconds` is how much of its time is in its last checkpoint; the rest is the platform's
    fault and credited.
    """
    charge, released = meter.close(elapsed_seconds, policy.minute_seconds)
    account.settle(
        captured_micros=charge,
        reserved_micros=-released,
        second_micros=second_micros([meter]),
    )
    billed = meter.billed_seconds
    if credit := meter.credit_lost_work(kept_seconds):
        account.reverse_charge(credit, meter.job_id, meter.segment, kept_seconds, billed)


def second_micros(meters: Sequence[Meter]) -> int:
    """What a second of some segments together costs, micro-dollars, rounded up."""
    return -(-sum(meter.rate_micros_per_hour for meter in meters) // SECONDS_PER_HOUR)


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

    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if cost(middle) <= available_micros:
            low = middle
        else:
            high = middle - 1
    return low
