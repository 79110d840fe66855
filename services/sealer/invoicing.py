"""Issuing the invoices that users request. Only the sealer has the key that signs them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg

from domain.audit.money_events import Inconsistent
from domain.audit.sealed_invoice import Result, verify_invoice
from domain.audit.tree_head import InvalidHead
from infrastructure.artifacts.store import STORE_ERRORS, Artifacts
from infrastructure.bills.invoice_requests import (
    Issued,
    RequestedInvoice,
    answer_request,
    waiting_requests,
)
from infrastructure.bills.invoices import Issuer
from infrastructure.seals.archive import SealDamaged
from infrastructure.seals.tree import NotProvable, NotSealedYet

SEALING_TIME = timedelta(minutes=2)
"""Time that a request waits for a head of the end of its period. Heads follow within 10 s."""

NOT_ISSUED = "EcoLink could not issue the invoice. Request it again, or ask your operator."

log = logging.getLogger("sealer")


@dataclass(frozen=True)
class Invoicing:
    """The sealer's work on requested invoices."""

    issuer: Issuer
    artifacts: Artifacts
    storing: Callable[[], AbstractContextManager[object]] = nullcontext
    """Entered while files and results are stored. It may refuse that with an error."""

    def answer(self, now: datetime) -> None:
        """Answer all waiting requests, except those whose events are not sealed yet."""
        for wanted in waiting_requests(self.issuer.store):
            self._answer(wanted, now)

    def _answer(self, wanted: RequestedInvoice, now: datetime) -> None:
        try:
            self._issue(wanted, now)
        except NotSealedYet as error:
            if now - wanted.requested_at >= SEALING_TIME:
                self._refuse(wanted, f"EcoLink did not seal the events in time. {error}", now)
        except (NotProvable, Inconsistent, SealDamaged, InvalidHead) as error:
            self._refuse(wanted, str(error), now)
        except (psycopg.Error, *STORE_ERRORS):
            raise
        except Exception:  # a forged event may raise anything
            log.exception("invoice %s failed", wanted.id)
            self._refuse(wanted, NOT_ISSUED, now)

    def _issue(self, wanted: RequestedInvoice, now: datetime) -> None:
        content = self.issuer.issue(wanted.account_id, wanted.period, now)
        verified = verify_invoice(content, self.issuer.log_key)
        if verified.invoice is None or verified.failures:
            raise NotProvable(" ".join(verified.failures))
        invoice = verified.invoice
        issued = Issued(
            verified.result,
            charges_micros=invoice.charges_micros - invoice.lost_work_micros,
            closing_micros=invoice.closing_micros,
        )
        pdf = self.issuer.as_pdf(content)
        with self.storing():
            self.artifacts.put(wanted.json_ref, content)
            self.artifacts.put(wanted.pdf_ref, pdf)
            answer_request(self.issuer.store, wanted, issued, now)

    def _refuse(self, wanted: RequestedInvoice, problem: str, now: datetime) -> None:
        log.error("no invoice %s of account %s: %s", wanted.id, wanted.account_id, problem)
        with self.storing():
            answer_request(self.issuer.store, wanted, Issued(Result.FAILED, problem), now)
