"""Issuing the invoices that users request. Only the sealer has the key that signs them."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

import psycopg

from domain.audit.money_events import Inconsistent
from domain.audit.sealed_invoice import Result, verify_invoice
from domain.audit.tree_head import InvalidHead
from infrastructure.artifacts import STORE_ERRORS, Artifacts
from infrastructure.invoice_requests import Issued, RequestedInvoice, finish, next_to_issue
from infrastructure.invoices import Issuer
from infrastructure.seal_archive import SealDamaged
from infrastructure.sealed_tree import NotProvable, NotSealedYet

SEALING_TIME = timedelta(minutes=2)
"""Time that a request waits for a head of the end of its period. Heads follow within 10 s."""

log = logging.getLogger("sealer")


def issue_next(issuer: Issuer, artifacts: Artifacts, now: datetime) -> bool:
    """Issue the oldest requested invoice. Return False if there is none, or if it has to wait.

    An invoice that cannot be proven gets its problem as the result.
    """
    wanted = next_to_issue(issuer.store)
    if wanted is None:
        return False
    try:
        issued = _issue(issuer, artifacts, wanted, now)
    except NotSealedYet as error:
        if now - wanted.requested_at < SEALING_TIME:
            return False
        issued = Issued(Result.FAILED, f"EcoLink did not seal the events in time. {error}")
    except (NotProvable, Inconsistent, SealDamaged, InvalidHead) as error:
        issued = Issued(Result.FAILED, str(error))
    except (psycopg.Error, *STORE_ERRORS):
        raise
    except Exception as error:  # noqa: BLE001 - a forged event may raise anything
        problem = f"An event of the account is damaged: {type(error).__name__}: {error}"
        issued = Issued(Result.FAILED, problem)
    if issued.problem is not None:
        log.error("no invoice %s of account %s: %s", wanted.id, wanted.account_id, issued.problem)
    finish(issuer.store, wanted, issued, now)
    return True


def _issue(issuer: Issuer, artifacts: Artifacts, wanted: RequestedInvoice, now: datetime) -> Issued:
    content = issuer.issue(wanted.account_id, wanted.period, now)
    verified = verify_invoice(content, issuer.log_key)
    if verified.invoice is None or verified.failures:
        return Issued(Result.FAILED, " ".join(verified.failures))
    artifacts.put(wanted.json_ref, content)
    artifacts.put(wanted.pdf_ref, issuer.as_pdf(content))
    invoice = verified.invoice
    return Issued(
        verified.result,
        charges_micros=invoice.charges_micros - invoice.lost_work_micros,
        closing_micros=invoice.closing_micros,
    )
