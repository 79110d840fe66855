"""The charges that count towards the maximum cost of a job, or towards a budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from uuid import UUID

from domain.access.api_key import ApiKey
from domain.billing.account import Account
from domain.billing.budget import spent_after
from domain.billing.meter import Meter
from domain.core.aggregate import Event
from domain.core.event_log import EventLog
from domain.core.identity import meter_id


def committed_micros(
    log: EventLog, job_id: UUID, segments: int, unsaved: Sequence[Meter] = ()
) -> int:
    """Return the charges less credits of the first segments, with the leases of open meters."""
    changed = {meter.id: meter for meter in unsaved}
    ids = (meter_id(job_id, each) for each in range(1, segments + 1))
    meters = (changed.get(each) or log.find(Meter, each) for each in ids)
    return sum(meter.committed_micros for meter in meters if meter is not None)


def charged_key(log: EventLog, account: Account, key_id: UUID | None) -> UUID | None:
    """Return the key whose budget counts: this one or its issuer; None without budgets."""
    limited = {each.key_id for each in account.budgets.values()} - {None}
    found = key_id if limited else None
    while found is not None and found not in limited:
        key = log.find(ApiKey, found)
        found = key.issuer_id if key is not None and key.account_id == account.id else None
    return found or key_id


PAGE_EVENTS = 1000


def charged_since(log: EventLog, account: Account, first: date, key_id: UUID | None = None) -> int:
    """Return charges less credits since the start of a UTC day, of all keys or one; at least 0."""
    newest_first = [
        micros for event in _since(log, account, first) if (micros := _charged(event, key_id))
    ]
    return spent_after(reversed(newest_first))


def _since(log: EventLog, account: Account, first: date) -> Iterator[Event]:
    """Yield the events of an account since the start of a UTC day, newest first."""
    version = account.version
    while version > 0:
        page = log.events.get(account.id, lte=version, desc=True, limit=PAGE_EVENTS)
        for event in page:
            assert isinstance(event, Event)
            if event.timestamp.date() < first:
                return
            yield event
        version -= PAGE_EVENTS


def _charged(event: Event, key_id: UUID | None) -> int:
    """Return the charge of an event; a credit is negative, and 0 stands for any other event."""
    match event:
        case Account.UsageSettled() if key_id is None:
            return event.captured_micros
        case Account.UsageSettled():
            return sum(each.captured_micros for each in event.keys if each.key_id == key_id)
        case Account.ChargeReversed() if key_id in (None, event.key_id):
            return -event.amount_micros
        case _:
            return 0
