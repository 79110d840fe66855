"""The periodic search for balances below the threshold of their automatic top-ups."""

from __future__ import annotations

import logging
import time
from uuid import UUID, uuid4

from psycopg_pool import ConnectionPool

from domain.core.aggregate import Cause, because
from domain.core.errors import VersionConflict
from extensions.card_payments.auto_top_up_rows import accounts_to_top_up
from extensions.card_payments.payments import CardPayments
from infrastructure.payments.provider import ProviderUnavailable
from infrastructure.postgres.log_identity import is_held
from infrastructure.postgres.store import Connection
from infrastructure.process.clock import Clock

TOP_UP_SECONDS = 2.0
"""Real seconds between two searches. A lease lasts minutes, so running jobs go on meanwhile."""

PASS_SECONDS = 60.0
"""Real seconds after which a pass starts no further charge. The next pass goes on."""


class AutoTopUps:
    """Charges saved cards of accounts with a low balance."""

    def __init__(
        self, clock: Clock, pool: ConnectionPool[Connection], payments: CardPayments
    ) -> None:
        self._clock = clock
        self._pool = pool
        self._payments = payments
        self._logger = logging.getLogger("auto_top_ups")

    def top_up(self) -> int:
        """Charge the cards of all accounts that are due. Return the number of started charges.

        A failure affects only one account. If the provider does not respond, the payment is
        pending, the reconciliation asks again, and the pass ends.
        """
        with self._pool.connection() as connection:
            if is_held(connection):
                return 0
            accounts = accounts_to_top_up(connection, self._clock.now())
        end, started = time.monotonic() + PASS_SECONDS, 0
        for account_id in accounts:
            try:
                started += self._try(account_id)
            except ProviderUnavailable:
                self._logger.warning(
                    "cannot charge the card of account %s now; retrying", account_id
                )
                return started + 1
            if time.monotonic() >= end:
                break
        return started

    def _try(self, account_id: UUID) -> bool:
        """Charge the card of an account that is due. Return True if a charge started."""
        try:
            with because(Cause("service:billing", f"auto-top-up:{uuid4()}", self._clock.now())):
                payment = self._payments.auto.start_due(account_id)
                if payment is None:
                    return False
                ended = self._payments.settle(payment.id)
        except ProviderUnavailable:
            raise
        except VersionConflict:
            return False
        except Exception:
            self._logger.exception("topping up account %s failed; retrying", account_id)
            return False
        assert ended is not None
        self._logger.info("automatic top-up %s is %s", ended.id, ended.status)
        return True
