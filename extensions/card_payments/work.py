"""The work of payments by card in the process `billing`."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from extensions.card_payments.charging import TOP_UP_SECONDS, AutoTopUps
from extensions.card_payments.reconciliation import (
    RECONCILE_SECONDS,
    SEARCH_SECONDS,
    Reconciliation,
)
from extensions.card_payments.returns import card_returns
from extensions.card_payments.stripe_provider import stripe_provider
from infrastructure.bus.service import Work, every
from infrastructure.postgres.store import Connection
from infrastructure.process.clock import Clock


def billing_work(clock: Clock, log: EventLog, pool: ConnectionPool[Connection]) -> Sequence[Work]:
    """Return the periodic work, or none if payments by card are disabled."""
    if stripe_provider() is None:
        return ()
    returns = card_returns(log)
    reconciliation = Reconciliation(clock, log, pool, returns)
    top_ups = AutoTopUps(clock, pool, returns.payments)
    return (
        every(RECONCILE_SECONDS, reconciliation.reconcile, "reconciliation"),
        every(SEARCH_SECONDS, reconciliation.search, "search for refunds"),
        every(TOP_UP_SECONDS, top_ups.top_up, "auto top-ups"),
    )
