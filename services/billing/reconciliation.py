"""The periodic comparison of pending card payments with the payment provider.

A confirmation can be lost: the webhook may be misconfigured, or a process may end between the
customer's payment and the event. Then the provider's state decides, and the payment counts once.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from psycopg_pool import ConnectionPool

from domain.billing.card_payment import CardFailure
from domain.core.aggregate import Cause, because
from infrastructure.backoff import Backoff
from infrastructure.card_payments import CardPayments
from infrastructure.clock import Clock
from infrastructure.store import Connection
from infrastructure.stripe_provider import ProviderUnavailable
from projections.card_payments import pending_payments

RECONCILE_SECONDS = 30.0
"""Real seconds between two looks at the pending payments."""

CONFIRMATION_TIME = timedelta(minutes=2)
"""Time for the webhook to confirm a payment."""

FIRST_PAUSE, MAX_PAUSE = timedelta(minutes=1), timedelta(hours=1)
"""Pauses between two questions about the same payment."""

CHECKOUT_TIME = timedelta(days=1)
"""Life of a checkout page at the provider. A payment that never got one ends after this time."""


class Reconciliation:
    """Asks the provider about payments that stay pending."""

    def __init__(
        self, clock: Clock, pool: ConnectionPool[Connection], payments: CardPayments
    ) -> None:
        self._clock = clock
        self._pool = pool
        self._payments = payments
        self._pauses = Backoff[UUID](FIRST_PAUSE, MAX_PAUSE)
        self._logger = logging.getLogger("reconciliation")

    def reconcile(self) -> int:
        """Settle the pending payments that are due. Return the number that ended.

        A failure affects only one payment.
        """
        now = self._clock.now()
        with self._pool.connection() as connection:
            rows = pending_payments(connection, now - CONFIRMATION_TIME)
        waiting = self._pauses.waiting(now)
        asked = [row for row in rows if row["id"] not in waiting]
        for ended in {*self._pauses.due(now)} - {row["id"] for row in asked}:
            self._pauses.reset(ended)
        return sum(self._settle(row["id"], row["started_at"], now) for row in asked)

    def _settle(self, payment_id: UUID, started_at: datetime, now: datetime) -> bool:
        self._pauses.postpone(payment_id, now)
        try:
            with because(Cause("service:billing", f"reconcile:{uuid4()}", now)):
                payment = self._payments.settle(payment_id)
                if payment is None:
                    return False
                if payment.is_pending and payment.checkout is None:
                    if now - started_at < CHECKOUT_TIME:
                        return False
                    payment = self._payments.paying.fail(payment_id, CardFailure.EXPIRED)
        except ProviderUnavailable:
            self._logger.warning("cannot ask about payment %s now; retrying", payment_id)
            return False
        except Exception:
            self._logger.exception("reconciling payment %s failed; retrying", payment_id)
            return False
        if payment.is_pending:
            return False
        self._logger.info("payment %s is %s", payment_id, payment.status)
        return True
