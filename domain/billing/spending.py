"""The charges that count towards the maximum cost of a job, or towards a budget."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from uuid import UUID

from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.core.aggregate import Event
from domain.core.event_log import EventLog
from domain.core.identity import meter_id


def committed_micros(
    log: EventLog, job_id: UUID, segments: int, unsaved: Sequence[Meter] = ()
) -> int:
    """Return the charges for the first `segments` segments of a job, in micro-dollars.

    Credits for lost work reduce the charges. The lease of an open meter counts as a whole.
    `unsaved` meters replace those in the log.
    """
    changed = {meter.id: meter for meter in unsaved}
    ids = (meter_id(job_id, each) for each in range(1, segments + 1))
    meters = (changed.get(each) or log.find(Meter, each) for each in ids)
    return sum(meter.committed_micros for meter in meters if meter is not None)


PAGE_EVENTS = 1000


def charged_since(log: EventLog, account: Account, first: date) -> int:
    """Return an account's charges less credits since the start of a UTC day, in micro-dollars."""
    charged, version = 0, account.version
    while version > 0:
        page = log.events.get(account.id, lte=version, desc=True, limit=PAGE_EVENTS)
        for event in page:
            assert isinstance(event, Event)
            if event.timestamp.date() < first:
                return charged
            if isinstance(event, Account.UsageSettled):
                charged += event.captured_micros
            elif isinstance(event, Account.ChargeReversed):
                charged -= event.amount_micros
        version -= PAGE_EVENTS
    return charged
