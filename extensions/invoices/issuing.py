"""Issuing the invoices that users request. Only the sealer has the key that signs them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import psycopg

from domain.audit.tree_head import InvalidHead
from extensions.invoices.domain.money_events import Inconsistent
from extensions.invoices.domain.sealed_invoice import Result, verify_invoice
from extensions.invoices.issuer import Issuer
from extensions.invoices.tables import (
    Issued,
    RequestedInvoice,
    answer_request,
    waiting_requests,
)
from infrastructure.artifacts.store import STORE_ERRORS, Artifacts
from infrastructure.postgres.leadership import Leadership
from infrastructure.postgres.log_identity import log_identity
from infrastructure.postgres.store import connect
from infrastructure.process.progress import PROGRESS
from infrastructure.seals.archive import SealArchive, SealDamaged, origin_of
from infrastructure.seals.tree import NotProvable, NotSealedYet
from infrastructure.settings import Settings
from services.sealer.app import (
    REFUSED_SECONDS,
    RETRY_SECONDS,
    as_leader,
    in_thread,
)

SEALING_TIME = timedelta(minutes=2)
"""Time that a request waits for a head of the end of its period. Heads follow within 10 s."""

NOT_ISSUED = "EcoLink could not issue the invoice. Request it again, or ask your operator."

PAUSE_SECONDS = 0.5
"""Seconds between two queries for requests."""

log = logging.getLogger("sealer")


async def keep_invoicing(settings: Settings, leadership: Leadership) -> None:
    """Issue the invoices that users request. Sealing never waits for it."""
    artifacts = Artifacts(settings.artifacts)
    while True:
        try:
            with connect(settings) as store:
                archive = SealArchive(artifacts)
                key = archive.sealing_key(settings.seal_key_file)
                issuer = Issuer(store, archive, key, origin_of(log_identity(store)))
                storing = partial(as_leader, store, leadership)
                await _answer_requests(Invoicing(issuer, artifacts, storing))
        except SealDamaged as error:
            log.error("No invoice is issued: %s", error)
            await asyncio.sleep(REFUSED_SECONDS)
        except (psycopg.Error, *STORE_ERRORS) as error:
            log.warning("%s; retrying", error)
            await asyncio.sleep(RETRY_SECONDS)


async def _answer_requests(invoicing: Invoicing) -> None:
    while True:
        with PROGRESS.step("issuing invoices"):
            await in_thread(lambda: invoicing.answer(datetime.now(UTC)))
        await asyncio.sleep(PAUSE_SECONDS)


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
