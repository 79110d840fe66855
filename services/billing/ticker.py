"""The ticker: bills the minutes that the evidence shows and extends leases, account by account."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from typing import Any
from uuid import UUID, uuid4

from psycopg_pool import ConnectionPool

from domain.core.aggregate import Cause, because
from domain.core.errors import VersionConflict
from domain.core.event_log import EventLog
from infrastructure.clock import Clock
from infrastructure.store import Connection
from services.billing.settlement import LeasePolicy
from services.billing.tick import Shown, settled

OPEN_WITH_EVIDENCE = """
SELECT account_id, meter_id, bound_at, coalesce(evidence.elapsed_seconds, 0) AS shown_seconds,
    clock_timestamp() AS now
FROM open_meters LEFT JOIN segment_evidence AS evidence USING (job_id, segment)
UNION ALL
SELECT account_id, NULL, NULL, 0, clock_timestamp()
FROM accounts WHERE low AND account_id NOT IN (SELECT account_id FROM open_meters)
ORDER BY account_id, meter_id
"""
"""Every open meter with the time it showed, and every account that is low but runs nothing."""


class Ticker:
    """Counts nothing: each tick posts exactly the minutes that the evidence has and the log lacks.

    A ticker that was down for long therefore catches up with its first ticks. The time is the
    database's, which is one for all processes, as the platform's clock has it.
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
        """Settle every account that runs something, or just did; returns how many had news.

        An account that cannot be settled is logged, and keeps no other from being billed.
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
            self._logger.exception("account %s cannot be settled; next tick", account_id)
            return False

    def _settle(self, account_id: UUID, shown: Sequence[Shown], now: datetime) -> bool:
        """One account's tick in one save; on a conflict the next tick is the retry."""
        cause = Cause("service:billing", f"tick:{uuid4()}", self._clock.now())
        with because(cause):
            aggregates = settled(self._log, account_id, shown, now, self._policy)
            if not any(each.pending_events for each in aggregates):
                return False
            try:
                self._log.commit(*aggregates)
            except VersionConflict:
                self._logger.info("account %s changed meanwhile; next tick", account_id)
                return False
            return True
