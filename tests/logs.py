"""Event logs for tests: with many events, with holes, or as messages on the bus."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from uuid import UUID

import pytest
from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import Notification, StoredEvent

from domain.access.role import Role
from domain.billing.account import Account
from domain.core.errors import VersionConflict
from domain.core.event_log import EventLog, PydanticMapper
from infrastructure.bus.streams import Envelope
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID

COMMIT_EVENTS = 500


def grow(log: EventLog, events: int, account_id: UUID = ACCOUNT_ID) -> None:
    """Append a number of events of one account."""
    account = log.find(Account, account_id)
    start = 0 if account is None else account.version
    with command(f"grow from {start}"):
        if account is None:
            account = Account.open(account_id, Role.OWNER, "UTC")
        while account.version < start + events:
            account.grant_credit(1, f"credit-{account.version}")
            if len(account.pending_events) == COMMIT_EVENTS:
                log.commit(account)
        log.commit(account)


def grow_with_an_incomplete_snapshot(log: EventLog) -> None:
    """Append 1,001 events of one account. Its snapshot lacks a field, as of an earlier version."""
    store = PydanticMapper.to_stored_event

    def store_without(self: PydanticMapper, event: DomainEventProtocol[UUID]) -> StoredEvent:
        row = store(self, event)
        return replace(row, state=row.state.replace(b',"erased":false', b""))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PydanticMapper, "to_stored_event", store_without)
        grow(log, 1001)


def leave_hole(log: EventLog) -> None:
    """Use up a notification ID, as a writer does whose transaction is rolled back."""
    late = log.load(Account, ACCOUNT_ID)
    grow(log, 1)
    with command("late"):
        late.grant_credit(1, "late")
        try:
            log.commit(late)
        except VersionConflict:
            return
    raise AssertionError("nothing was rolled back")


def notifications(log: EventLog) -> list[Notification]:
    """Return all notifications of the log."""
    found: list[Notification] = []
    while batch := log.recorder.select_notifications(
        start=found[-1].id if found else None, limit=1000, inclusive_of_start=False
    ):
        found += batch
    return found


def envelopes(log: EventLog) -> list[Envelope]:
    """Return the whole log as the relay publishes it."""
    found = notifications(log)
    return [
        Envelope.of(item, prev_id)
        for prev_id, item in zip([0, *(item.id for item in found)], found, strict=False)
    ]


def ids(log: EventLog) -> list[int]:
    """Return the notification IDs of the whole log."""
    return [item.id for item in notifications(log)]


def has_holes(positions: list[int]) -> bool:
    """Return True if IDs between the first and the last are missing."""
    return any(after != before + 1 for before, after in pairwise(positions))
