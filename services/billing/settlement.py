"""Settlement of accounts: billed minutes, lease extensions and credits for lost work. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from domain.billing.account import Account
from domain.billing.key_use import Share
from domain.billing.meter import Meter
from domain.core.money import seconds_bought
from infrastructure.settings import Settings

SAVE_EVENTS = 400
"""Maximum minutes and leases that a tick saves for an account. The next tick continues."""

LOW_MINUTES = 15
"""Runway, in metered minutes, below which EcoLink warns the account of a low balance."""


@dataclass(frozen=True)
class LeasePolicy:
    """Lengths of metered minutes, leases and extensions, in seconds of segment time."""

    minute_seconds: int
    lease_seconds: int
    extension_seconds: int

    def __post_init__(self) -> None:
        # One save may bill the whole lease of a segment that ends.
        if self.lease_seconds > SAVE_EVENTS * self.minute_seconds:
            raise ValueError(
                f"ECOLINK_LEASE_SECONDS is {self.lease_seconds}. Set it to at most "
                f"{SAVE_EVENTS * self.minute_seconds} ({SAVE_EVENTS} metered minutes)."
            )

    @property
    def low_seconds(self) -> int:
        """Runway, in seconds, below which EcoLink warns the account of a low balance."""
        return LOW_MINUTES * self.minute_seconds

    @classmethod
    def of(cls, settings: Settings) -> LeasePolicy:
        """Return the policy in the settings."""
        return cls(
            minute_seconds=settings.meter_minute_seconds,
            lease_seconds=settings.lease_seconds,
            extension_seconds=settings.lease_extension_seconds,
        )


@dataclass(frozen=True)
class MeteredSegment:
    """A segment with its open meter and its elapsed time in whole seconds."""

    meter: Meter
    elapsed_seconds: int
    bound_at: datetime | None = None
    """Start of the pod; None before the start."""

    @property
    def used_seconds(self) -> int:
        """Used part of the paid seconds. If a clock jumps back, billed seconds stay used."""
        return min(max(self.elapsed_seconds, self.meter.billed_seconds), self.meter.paid_seconds)

    @property
    def lapsed(self) -> bool:
        """True if the paid time is used up. The segment then saves a checkpoint and exits."""
        return 0 < self.meter.paid_seconds <= self.used_seconds

    def missing_seconds(self, ahead: int) -> int:
        """Seconds to add for a lease that ends `ahead` after the used time, or at its limit."""
        limit, end = self.meter.limit_seconds, self.used_seconds + ahead
        return max(0, (end if limit is None else min(end, limit)) - self.meter.paid_seconds)

    def at_limit(self, seconds: int) -> bool:
        """True if this many more seconds bring the lease to the segment's limit."""
        return self.meter.paid_seconds + seconds == self.meter.limit_seconds


Micros = Counter[UUID | None]
"""Micro-dollars by API key. None stands for segments that count against no key."""


def settle(account: Account, segments: Sequence[MeteredSegment], policy: LeasePolicy) -> None:
    """Bill the due minutes of an account and extend its leases.

    A full extension sets a lease to end `lease_seconds` after the segment's elapsed time. If this
    adds at least `extension_seconds` to any lease, all leases are extended. If a minute is billed
    and an extension will be due before the next minute, all leases are extended now, in the same
    save. If the balance or a budget is too low, all segments get the same remaining time, so that
    they run out in the same second. A budget of an API key shortens only the leases of the segments
    that count against it. No lease goes beyond its segment's limit, and the other segments share
    the rest. Leases of time that a guarantee covers are full, whatever the balance and the budgets.
    A lapsed lease is not extended, because its segment is in the unbilled grace period. A segment
    whose lease was refused does not run. If the account has no running segments, its low-balance
    state is cleared, so that EcoLink can warn it again.
    """
    running = [each for each in segments if not each.meter.refused]
    captured, posted = _post_minutes(running, policy)
    reserved = _extend_leases(account, running, policy, posted)
    account.settle(
        captured_micros=captured.total(),
        reserved_micros=reserved.total(),
        second_micros=second_micros([each.meter for each in running]),
        keys={
            key_id: Share(captured[key_id], reserved[key_id], second_micros(meters))
            for key_id, meters in _by_key([each.meter for each in running]).items()
            if key_id is not None
        },
    )
    runway = runway_seconds(account, running)
    # A reserved balance means that a segment runs, even if it is not in `segments` yet.
    if runway is not None or account.reserved_micros == 0:
        account.watch_runway(runway, policy.low_seconds)


def _by_key(meters: Sequence[Meter]) -> dict[UUID | None, list[Meter]]:
    found: dict[UUID | None, list[Meter]] = {}
    for meter in meters:
        found.setdefault(meter.key_id, []).append(meter)
    return found


def _post_minutes(running: Sequence[MeteredSegment], policy: LeasePolicy) -> tuple[Micros, int]:
    """Bill the elapsed minutes, at most SAVE_EVENTS. Return the micro-dollars and the minutes."""
    captured, posted = Micros(), 0
    for each in running:
        before = each.meter.minutes
        captured[each.meter.key_id] += each.meter.post_minutes(
            each.elapsed_seconds, policy.minute_seconds, at_most=SAVE_EVENTS - posted
        )
        posted += each.meter.minutes - before
    return captured, posted


def _extend_leases(
    account: Account, running: Sequence[MeteredSegment], policy: LeasePolicy, posted: int
) -> Micros:
    """Extend the leases if one is due, after `posted` minutes. Return the micro-dollars to reserve.

    Minutes and extensions are at most SAVE_EVENTS together.
    """
    if account.suspension is not None:
        return Micros()
    leased = [each for each in running if not each.lapsed]
    affordable = _affordable_by_key(account, leased, policy.lease_seconds)

    def ahead(meter: Meter) -> int:
        return policy.lease_seconds if meter.is_covered else affordable[meter.key_id]

    missing = [
        (each, seconds)
        for each in leased
        if (seconds := each.missing_seconds(ahead(each.meter))) > 0
    ]

    full = policy.extension_seconds
    if posted:
        full = max(1, full - policy.minute_seconds + 1)

    def is_due(each: MeteredSegment, seconds: int) -> bool:
        whole = ahead(each.meter) == policy.lease_seconds
        least = full if whole else 1
        return seconds >= least or each.meter.paid_seconds == 0 or each.at_limit(seconds)

    reserved = Micros()
    if any(is_due(each, seconds) for each, seconds in missing):
        for each, seconds in missing[: SAVE_EVENTS - posted]:
            reserved[each.meter.key_id] += each.meter.extend_lease(seconds)
    return reserved


def open_meter(account: Account, meter: Meter, policy: LeasePolicy) -> None:
    """Give a new meter its first lease, or refuse it if nothing pays for one second."""
    running, key_id, ahead = MeteredSegment(meter, 0), meter.key_id, policy.lease_seconds
    if not meter.is_covered:
        ahead = _affordable_by_key(account, [running], ahead)[key_id]
    seconds = running.missing_seconds(ahead)
    if seconds == 0 or account.suspension is not None:
        meter.refuse_lease()
        return
    micros = meter.extend_lease(seconds)
    keys = {} if key_id is None else {key_id: Share(reserved_micros=micros)}
    account.settle(captured_micros=0, reserved_micros=micros, keys=keys)


def close(
    account: Account,
    meter: Meter,
    elapsed_seconds: int,
    kept_seconds: int,
    policy: LeasePolicy,
) -> None:
    """Charge an ended segment to the second, and credit lost work.

    `kept_seconds` is the time that the last checkpoint covers, or the whole time if the platform
    lost no work. Billed time beyond `kept_seconds` is credited: either its work was lost, or a
    wrong clock reported it before the final report. The account is marked as depleted only if no
    other segment has a lease.
    """
    charge, released = meter.close(elapsed_seconds, policy.minute_seconds)
    lost = meter.charge_between(min(kept_seconds, meter.billed_seconds), meter.billed_seconds)

    def second_of_last(reserved_micros: int) -> int:
        is_last = reserved_micros == charge + released
        return second_micros([meter]) if is_last and not lost else 0

    keys: dict[UUID, Share] = {}
    if (key_id := meter.key_id) is not None:
        second = second_of_last(account.reserved_for(key_id))
        keys[key_id] = Share(charge, -released, second)
    account.settle(
        captured_micros=charge,
        reserved_micros=-released,
        second_micros=second_of_last(account.reserved_micros),
        keys=keys,
    )
    credit_lost_work(account, meter, kept_seconds)


def credit_lost_work(account: Account, meter: Meter, kept_seconds: int) -> None:
    """Credit the charge for the time after `kept_seconds` that is not credited yet."""
    billed_seconds = meter.billed_seconds - meter.credited_seconds
    if credit := meter.credit_lost_work(kept_seconds):
        account.reverse_charge(
            credit, meter.job_id, meter.segment, kept_seconds, billed_seconds, meter.key_id
        )


def second_micros(meters: Sequence[Meter]) -> int:
    """Return the highest price of a second of all segments, each of which may round up."""
    return sum(meter.second_micros for meter in meters)


def runway_seconds(account: Account, running: Sequence[MeteredSegment]) -> int | None:
    """Return the seconds that the balance, less unbilled time, lasts; None if all is free.

    Time that a guarantee covers is free.
    """
    rate = sum(each.meter.rate_micros_per_hour for each in running if not each.meter.is_covered)
    spent = 0
    for each in running:
        meter = each.meter
        end = meter.paid_seconds if meter.is_covered else each.used_seconds
        spent += meter.charge_between(meter.billed_seconds, end)
    return seconds_bought(account.balance_micros - spent, rate)


def _affordable_by_key(
    account: Account, running: Sequence[MeteredSegment], lease_seconds: int
) -> dict[UUID | None, int]:
    """Return the seconds after the elapsed time, up to `lease_seconds`, that can be paid for.

    They are the same for all segments that count against the same API key.
    """
    most: dict[UUID | None, int] = {}
    for key_id in {each.meter.key_id for each in running}:
        left = None if key_id is None else account.budget_left_micros(key_id)
        of_key = [each for each in running if each.meter.key_id == key_id]
        most[key_id] = (
            lease_seconds
            if left is None
            else _affordable_ahead(of_key, left, {key_id: lease_seconds})
        )
    ahead = _affordable_ahead(running, account.leasable_micros, most)
    return {key_id: min(ahead, seconds) for key_id, seconds in most.items()}


def _affordable_ahead(
    running: Sequence[MeteredSegment], available_micros: int, most: Mapping[UUID | None, int]
) -> int:
    """Return the further seconds that an amount pays, at most those of each API key."""

    def cost(ahead: int) -> int:
        total = 0
        for each in running:
            seconds = each.missing_seconds(min(ahead, most[each.meter.key_id]))
            paid = each.meter.paid_seconds
            total += each.meter.charge_between(paid, paid + seconds)
        return total

    low, high = 0, max(most.values(), default=0)
    if cost(high) <= available_micros:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if cost(middle) <= available_micros:
            low = middle
        else:
            high = middle - 1
    return low
