"""The ticker: bills the minutes that the evidence shows and extends leases, account by account."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import groupby
from typing import Any
from uuid import UUID, uuid4

from psycopg_pool import ConnectionPool

from domain.account import Account
from domain.aggregate import Cause, because
from domain.errors import VersionConflict
from domain.event_log import EventLog
from domain.meter import Meter
from infrastructure.clock import Clock
from infrastructure.store import Connection
from services.billing.settlement import LeasePolicy, Running, settle

ADVISORY_LOCK = 0x71CC
"""Held by the one ticker that works; two would bill nothing twice, but conflict all the time."""

# Elapsed time is the smaller of the database's and the trainer's own: a clock that jumps bills
# nothing. A segment without a pod, or with one from the future, has not run.
OPEN_WITH_EVIDENCE = """
SELECT meter_id, account_id, floor(greatest(0, least(
    coalesce(evidence.elapsed_seconds, 0),
    coalesce(extract(epoch FROM clock_timestamp() - bound_at), 0)
)))::integer AS elapsed_seconds
FROM open_meters LEFT JOIN segment_evidence AS evidence USING (job_id, segment)
ORDER BY account_id, meter_id
"""


class Ticker:
    """Counts nothing: each tick posts exactly the minutes that the evidence has and the log lacks.

    A ticker that was down for long therefore catches up with its first tick.
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
        """Settle every account that runs something; returns how many had news.

        Does nothing while another process holds the lock. An account that cannot be settled is
        logged, and keeps no other from being billed.
        """
        with self._pool.connection() as connection:
            row = connection.execute(
                "SELECT pg_try_advisory_lock(%s) AS held", [ADVISORY_LOCK]
            ).fetchone()
            if row is None or not row["held"]:
                return 0
            try:
                rows = connection.execute(OPEN_WITH_EVIDENCE).fetchall()
                groups = groupby(rows, key=lambda row: row["account_id"])
                return sum(
                    self._try_to_settle(account_id, list(rows)) for account_id, rows in groups
                )
            finally:
                connection.execute("SELECT pg_advisory_unlock(%s)", [ADVISORY_LOCK])

    def _try_to_settle(self, account_id: UUID, rows: Sequence[dict[str, Any]]) -> bool:
        try:
            return self._settle(account_id, rows)
        except Exception:
            self._logger.exception("account %s cannot be settled; next tick", account_id)
            return False

    def _settle(self, account_id: UUID, rows: Sequence[dict[str, Any]]) -> bool:
        """One account's tick in one save; on a conflict the next tick is the retry."""
        cause = Cause("service:billing", f"tick:{uuid4()}", self._clock.now())
        with because(cause):
            account = self._log.load(Account, account_id)
            running = [
                Running(meter, row["elapsed_seconds"])
                for row in rows
                if not (meter := self._log.load(Meter, row["meter_id"])).closed
            ]
            settle(account, running, self._policy)
            if not account.pending_events:
                return False
            try:
                self._log.commit(account, *(each.meter for each in running))
            except VersionConflict:
                self._logger.info("account %s changed meanwhile; next tick", account_id)
                return False
            return True
