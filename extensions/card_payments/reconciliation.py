"""The periodic comparison of pending payments, refunds and disputes with the payment provider.

A confirmation can be lost: the webhook may be misconfigured, or a process may end between the
customer's payment and the event. Then the provider's state decides, and the payment counts once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID, uuid4

from psycopg_pool import ConnectionPool

from domain.billing.card_payment import CardFailure
from domain.billing.payment import Payment, ReturnKind
from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from extensions.card_payments.payment_rows import pending_payments
from extensions.card_payments.return_rows import open_returns
from extensions.card_payments.returns import CardReturns
from infrastructure.payments.provider import ProviderUnavailable, RefundRefused
from infrastructure.postgres.log_identity import is_held
from infrastructure.postgres.store import Connection
from infrastructure.process.backoff import Backoff
from infrastructure.process.clock import Clock
from projections.projection import Row

RECONCILE_SECONDS = 30.0
"""Real seconds between two comparisons of what is pending."""

SEARCH_SECONDS = 3600.0
"""Real seconds between two searches for refunds and disputes whose webhooks were lost."""

SEARCHED_TIME = timedelta(days=30)
"""Maximum age of the refunds and disputes that a search compares. Refunds fail within weeks."""

CONFIRMATION_TIME = timedelta(minutes=2)
"""Time for the webhook to confirm a payment."""

FIRST_PAUSE, MAX_PAUSE = timedelta(minutes=1), timedelta(hours=1)
"""Pauses between two questions about the same object."""

CHECKOUT_TIME = timedelta(days=1)
"""Life of a checkout page at the provider. A payment that never got one ends after this time."""


PASS_SECONDS = 60.0
"""Seconds of a pass, within `step_seconds`. A slow provider takes a minute per question."""


class Reconciliation:
    """Asks the provider about payments, refunds and disputes that stay open."""

    def __init__(
        self, clock: Clock, log: EventLog, pool: ConnectionPool[Connection], returns: CardReturns
    ) -> None:
        self._clock = clock
        self._log = log
        self._pool = pool
        self._returns = returns
        self._pauses = Backoff[Hashable](FIRST_PAUSE, MAX_PAUSE)
        self._logger = logging.getLogger("reconciliation")

    def reconcile(self) -> int:
        """Compare what is open and due. Return the number of objects that were asked about.

        A failure affects only one of them. If the provider does not respond, the pass ends.
        """
        now = self._clock.now()
        with self._pool.connection() as connection:
            if is_held(connection):  # a step can charge a card, or refund a payment
                return 0
            payments = pending_payments(connection, now - CONFIRMATION_TIME)
            returns = open_returns(connection, now - CONFIRMATION_TIME)
        steps: dict[Hashable, Callable[[], object]] = {
            row["id"]: partial(self._settle_payment, row["id"], row["started_at"], now)
            for row in payments
        }
        steps |= {
            (row["payment_id"], row["return_id"]): partial(self._settle_return, row)
            for row in returns
        }
        waiting = self._pauses.waiting(now)
        for ended in {*self._pauses.due(now)} - steps.keys():
            self._pauses.reset(ended)
        due = [(key, step) for key, step in steps.items() if key not in waiting]
        end, asked = time.monotonic() + PASS_SECONDS, 0
        for key, step in due:
            self._pauses.postpone(key, now)
            asked += 1
            if not self._try(key, step, now) or time.monotonic() >= end:
                break
        return asked

    def search(self) -> int:
        """Record refunds and disputes of the last weeks whose webhooks were lost.

        Return the number that was recorded. A failure affects only one of them. If the provider
        does not respond, or after some time, the search ends, and the next one goes on.
        """
        now, found = self._clock.now(), 0
        end = time.monotonic() + PASS_SECONDS
        try:
            for _, step in self._returns.unrecorded(now - SEARCHED_TIME):
                found += self._record(step, now)
                if time.monotonic() >= end:
                    break
        except ProviderUnavailable:
            self._logger.warning("cannot search for refunds and disputes now; retrying")
        return found

    def _record(self, step: Callable[[], object], now: datetime) -> bool:
        try:
            with because(Cause("service:billing", f"search:{uuid4()}", now)):
                step()
        except ProviderUnavailable:
            raise
        except Exception:
            self._logger.exception("recording a refund or dispute failed; retrying")
            return False
        return True

    def _try(self, key: Hashable, step: Callable[[], object], now: datetime) -> bool:
        """Ask about an object. Return False if the provider does not respond."""
        try:
            with because(Cause("service:billing", f"reconcile:{uuid4()}", now)):
                step()
        except ProviderUnavailable:
            self._logger.warning("cannot ask about %s now; retrying", key)
            return False
        except RefundRefused as error:
            self._logger.warning("the refund %s failed: %s", key, error)
        except Exception:
            self._logger.exception("reconciling %s failed; retrying", key)
        return True

    def _settle_payment(self, payment_id: UUID, started_at: datetime, now: datetime) -> None:
        payments = self._returns.payments
        payment = payments.settle(payment_id)
        if payment is None or payment.automatic or payment.checkout is not None:
            return
        if payment.is_pending and now - started_at >= CHECKOUT_TIME:
            payments.paying.fail(payment_id, CardFailure.EXPIRED)

    def _settle_return(self, row: Row) -> None:
        if row["kind"] == ReturnKind.DISPUTE:
            self._returns.settle_dispute(row["return_id"])
        else:
            payment = self._log.load(Payment, row["payment_id"])
            self._returns.send_refund(payment.reference, row["return_id"])
