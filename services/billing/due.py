"""Times at which an account needs a settlement. No I/O.

A settlement of an account bills all its segments in one save. To save once a minute, whatever the
number of segments, the minutes of an account wait for each other, at most one minute. They come
with the extensions of the leases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from domain.billing.account import Account
from domain.billing.meter import Meter
from services.billing.settlement import LeasePolicy, MeteredSegment, runway_seconds


def is_due(account: Account, running: Sequence[MeteredSegment], policy: LeasePolicy) -> bool:
    """Return True if an account needs a settlement.

    It does if a lease can be extended or is used up, if all started segments have a whole minute to
    bill or one of them has two, or if the balance becomes low or recovers.
    """
    unbilled = [each for each in running if _has_unbilled_time(each.meter)]
    if any(each.elapsed_seconds >= _alone(each.meter, policy) for each in unbilled):
        return True
    started = [each for each in unbilled if each.elapsed_seconds > 0]
    if started and all(each.elapsed_seconds >= _together(each.meter, policy) for each in started):
        return True
    runway = runway_seconds(account, [each for each in running if not each.meter.refused])
    if runway is None and account.reserved_micros:
        return False
    return account.low is not (runway is not None and runway < policy.low_seconds)


def next_due(
    account: Account, segments: Sequence[MeteredSegment], now: datetime, policy: LeasePolicy
) -> datetime | None:
    """Return the first moment at which an account can be due without a new event; None: never.

    Evidence may arrive late and all at once, so the result assumes that each segment has run since
    the start of its pod.
    """
    running = [each for each in segments if not each.meter.refused]
    timed = [each for each in running if each.bound_at and _has_unbilled_time(each.meter)]
    moments = [_earliest(each, _alone(each.meter, policy)) for each in timed]
    minutes = [_earliest(each, _together(each.meter, policy)) for each in timed]
    started = [
        minute for each, minute in zip(timed, minutes, strict=True) if each.elapsed_seconds > 0
    ]
    if minutes:  # of segments that show no time yet, any may be the first to start
        moments.append(max(started) if started else min(minutes))
    if not account.low:
        runway = runway_seconds(account, [_latest(each, now) for each in running])
        if runway is not None:
            moments.append(now + timedelta(seconds=max(0, runway - policy.low_seconds)))
    return min(moments, default=None)


def _earliest(segment: MeteredSegment, seconds: int) -> datetime:
    """Return the first moment at which a segment can have run for some seconds."""
    assert segment.bound_at is not None
    return segment.bound_at + timedelta(seconds=seconds)


def _latest(segment: MeteredSegment, now: datetime) -> MeteredSegment:
    """Return a segment as if it had run since the start of its pod."""
    ran = 0 if segment.bound_at is None else int((now - segment.bound_at).total_seconds())
    return replace(segment, elapsed_seconds=max(0, ran))


def _has_unbilled_time(meter: Meter) -> bool:
    """Return False if the lease was refused, or is used up and billed."""
    return not meter.refused and (
        meter.paid_seconds == 0 or meter.billed_seconds < meter.paid_seconds
    )


def _alone(meter: Meter, policy: LeasePolicy) -> int:
    """Return the segment time at which a meter makes its account due, whatever its other meters."""
    paid, limit = meter.paid_seconds, meter.limit_seconds
    if paid == 0:
        return 0
    seconds = [paid, meter.billed_seconds + 2 * policy.minute_seconds]
    if limit is None or limit >= paid + policy.extension_seconds:
        seconds.append(paid + policy.extension_seconds - policy.lease_seconds)
    if limit is not None and limit > paid:
        seconds.append(limit - policy.lease_seconds)
    return min(seconds)


def _together(meter: Meter, policy: LeasePolicy) -> int:
    """Return the segment time at which a meter has a whole minute to bill."""
    return min(meter.billed_seconds + policy.minute_seconds, meter.paid_seconds)
