"""The ticker, which bills minutes and extends leases for one account at a time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any
from uuid import UUID, uuid4

from psycopg_pool import ConnectionPool

from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.core.aggregate import Aggregate, Cause, because
from domain.core.errors import VersionConflict
from domain.core.event_log import EventLog
from infrastructure.clock import Clock
from infrastructure.metrics import LEASE_LEAD_SECONDS
from infrastructure.store import Connection
from services.billing.evidence import elapsed_seconds
from services.billing.settlement import LeasePolicy, Running, settle

OPEN_WITH_EVIDENCE = """
SELECT account_id, meter_id, bound_at, coalesce(evidence.elapsed_seconds, 0) AS shown_seconds,
    clock_timestamp() AS now
FROM open_meters LEFT JOIN segment_evidence AS evidence USING (job_id, segment)
UNION ALL
SELECT account_id, NULL, NULL, 0, clock_timestamp()
FROM accounts WHERE low AND account_id NOT IN (SELECT account_id FROM open_meters)
ORDER BY account_id, meter_id
"""
"""All open meters with their elapsed time, and all low-balance accounts without an open meter."""


@dataclass(frozen=True)
class Shown:
    """An open meter, the elapsed time that its trainer reported, and the start of its pod."""

    meter_id: UUID
    shown_seconds: float
    bound_at: datetime | None


def settled(
    log: EventLog, account_id: UUID, shown: Sequence[Shown], now: datetime, policy: LeasePolicy
) -> Sequence[Aggregate]:
    """Settle an account. Return the account and its open meters, unsaved.

    Call this inside `because`.
    """
    account = log.load(Account, account_id)
    running = [
        Running(meter, elapsed_seconds(each.shown_seconds, each.bound_at, now))
        for each in shown
        if not (meter := log.load(Meter, each.meter_id)).closed
    ]
    settle(account, running, policy)
    for each in running:
        LEASE_LEAD_SECONDS.observe(each.meter.paid_seconds - each.used_seconds)
    return [account, *(each.meter for each in running)]


class Ticker:
    """A periodic task that bills the elapsed minutes that the log does not contain yet.

    The ticker is stateless, so it catches up after an outage. It uses the database's time,
    converted to the platform's clock.
    """

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        pool: ConnectionPool[Connection],
        policy: LeasePolicy,
    ) -> None:
        self._log = log
        self._clock = clock
        self._pool = pool
        self._policy = policy
        self._logger = logging.getLogger("ticker")

    def tick(self) -> int:
        """Settle all accounts with open meters or a low balance. Return the number that changed.

        If an account fails, the ticker logs the error and settles the other accounts.
        """
        with self._pool.connection() as connection:
            rows = connection.execute(OPEN_WITH_EVIDENCE).fetchall()
        groups = groupby(rows, key=lambda row: row["account_id"])
        return sum(self._try_to_settle(account_id, list(rows)) for account_id, rows in groups)

    def _try_to_settle(self, account_id: UUID, rows: Sequence[dict[str, Any]]) -> bool:
        shown = [
            Shown(row["meter_id"], row["shown_seconds"], row["bound_at"])
            for row in rows
            if row["meter_id"] is not None
        ]
        try:
            return self._settle(account_id, shown, self._clock.at(rows[0]["now"]))
        except Exception:
            self._logger.exception("settling account %s failed; retrying", account_id)
            return False

    def _settle(self, account_id: UUID, shown: Sequence[Shown], now: datetime) -> bool:
        """Settle one account in one save. After a version conflict, the next tick retries."""
        cause = Cause("service:billing", f"tick:{uuid4()}", self._clock.now())
        with because(cause):
            aggregates = settled(self._log, account_id, shown, now, self._policy)
            if not any(each.pending_events for each in aggregates):
                return False
            try:
                self._log.commit(*aggregates)
            except VersionConflict:
                self._logger.info("account %s changed meanwhile; retrying", account_id)
                return False
            return True
