"""One account's tick: load, settle, save; a pure use of the log, whoever says what has run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.core.aggregate import Aggregate
from domain.core.event_log import EventLog
from services.billing.evidence import elapsed_seconds
from services.billing.settlement import LeasePolicy, Running, settle


@dataclass(frozen=True)
class Shown:
    """What is known of an open meter: the time its trainer showed, and since when it has GPUs."""

    meter_id: UUID
    shown_seconds: float
    bound_at: datetime | None


def settled(
    log: EventLog, account_id: UUID, shown: Sequence[Shown], now: datetime, policy: LeasePolicy
) -> Sequence[Aggregate]:
    """The account and its meters with what a tick changes pending; runs inside `because`.

    A meter that was closed meanwhile is left alone.
    """
    account = log.load(Account, account_id)
    running = [
        Running(meter, elapsed_seconds(each.shown_seconds, each.bound_at, now))
        for each in shown
        if not (meter := log.load(Meter, each.meter_id)).closed
    ]
    settle(account, running, policy)
    return [account, *(each.meter for each in running)]
