"""Invoices that users request, issued by the sealer."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from domain.audit.sealed_invoice import Result
from domain.core.event_log import EventLog
from infrastructure.artifacts import Artifacts
from infrastructure.invoice_file import verify_file
from infrastructure.invoice_requests import RequestedInvoice, invoice_with, request_invoice
from infrastructure.invoices import Issuer
from infrastructure.seal_archive import SealArchive
from infrastructure.settings import Settings
from infrastructure.store import Connection, connect
from services.sealer.invoicing import SEALING_TIME, issue_next
from services.sealer.sealer import Sealer
from tests.builders.bills import KEY, ORIGIN, Bills, two_months
from tests.builders.examples import ACCOUNT_ID

FIRST, LAST = date(2026, 10, 1), date(2026, 10, 31)
IDLE = UUID(int=8)
"""An account without events since October."""


class Invoicing:
    """A sealed log with the bills of two months, and the invoices of its accounts."""

    def __init__(self, settings: Settings, log: EventLog, store: Connection) -> None:
        self.settings, self.log, self.store = settings, log, store
        self.artifacts = Artifacts(settings.artifacts)
        self.archive = SealArchive(self.artifacts)
        self.issuer = Issuer(store, self.archive, KEY, ORIGIN)

    def seal(self) -> None:
        sealer = Sealer(self.archive, ORIGIN, KEY, lambda: datetime.now(UTC))
        sealer.resume(self.store)
        while sealer.step(self.store):
            pass
        sealer.export()

    def request(self, account_id: UUID = ACCOUNT_ID) -> RequestedInvoice:
        """Request the invoice of October."""
        wanted = RequestedInvoice.of(account_id, FIRST, LAST, datetime.now(UTC))
        return request_invoice(self.store, wanted)

    def request_until_now(self) -> RequestedInvoice:
        """Add an event, and request an invoice that includes it."""
        before = datetime.now(UTC)
        Bills(self.log, before).history.top_up(1_000_000, f"transfer at {before}")
        now = datetime.now(UTC)
        return request_invoice(self.store, RequestedInvoice.of(ACCOUNT_ID, FIRST, now.date(), now))

    def issue(self, later: timedelta = timedelta()) -> bool:
        return issue_next(self.issuer, self.artifacts, datetime.now(UTC) + later)

    def stored(self, wanted: RequestedInvoice) -> RequestedInvoice:
        found = invoice_with(self.store, wanted.id)
        assert found is not None
        return found

    def tamper(self, statement: str, *values: object) -> None:
        assert self.settings.owner_database_url is not None
        with psycopg.connect(self.settings.owner_database_url, autocommit=True) as superuser:
            assert superuser.execute(statement.encode(), values).rowcount == 1


@pytest.fixture
def invoicing(settings: Settings, log: EventLog) -> Iterator[Invoicing]:
    two_months(log)
    Bills(log, account_id=IDLE).history.open_account(9_000_000)
    with connect(settings) as store:
        made = Invoicing(settings, log, store)
        made.seal()
        yield made


def test_both_files_of_a_requested_invoice_verify(invoicing: Invoicing) -> None:
    wanted = invoicing.request()
    assert wanted.result is None
    assert invoicing.issue()
    stored = invoicing.stored(wanted)
    assert (stored.result, stored.problem) == (Result.PROVEN, None)
    for ref in (stored.json_ref, stored.pdf_ref):
        verified = verify_file(invoicing.artifacts.get(ref), invoicing.issuer.log_key)
        assert verified.result is Result.PROVEN
        assert verified.invoice is not None
        invoice = verified.invoice
        assert invoice.account_id == ACCOUNT_ID
        assert invoice.period == stored.period
        assert invoice.closing_micros == stored.closing_micros
        assert invoice.charges_micros - invoice.lost_work_micros == stored.charges_micros
    assert not invoicing.issue(), "nothing is left to issue"


def test_a_complete_invoice_is_not_issued_again(invoicing: Invoicing) -> None:
    wanted = invoicing.request()
    invoicing.issue()
    assert invoicing.request() == invoicing.stored(wanted)
    assert not invoicing.issue()


def test_an_invoice_is_complete_after_a_later_event(invoicing: Invoicing) -> None:
    wanted = invoicing.request(IDLE)
    invoicing.issue()
    assert invoicing.stored(wanted).result is Result.COMPLETENESS_NOT_PROVEN

    bills = Bills(invoicing.log, datetime.now(UTC), IDLE)
    bills.history.top_up(1_000_000, "transfer 30")
    invoicing.seal()
    assert invoicing.request(IDLE).result is None
    invoicing.issue()
    assert invoicing.stored(wanted).result is Result.PROVEN


def test_an_invoice_until_now_grows_with_the_next_request(invoicing: Invoicing) -> None:
    first = invoicing.request_until_now()
    invoicing.seal()
    invoicing.issue()
    closing = invoicing.stored(first).closing_micros
    assert closing is not None
    again = invoicing.request_until_now()
    assert again.id == first.id
    assert again.until > first.until
    invoicing.seal()
    invoicing.issue()
    assert invoicing.stored(first).closing_micros == closing + 1_000_000


def test_an_invoice_waits_until_its_events_are_sealed(invoicing: Invoicing) -> None:
    wanted = invoicing.request_until_now()
    assert not invoicing.issue()
    assert invoicing.stored(wanted).result is None
    invoicing.seal()
    assert invoicing.issue()
    assert invoicing.stored(wanted).is_ready


def test_an_invoice_fails_if_its_events_are_never_sealed(invoicing: Invoicing) -> None:
    wanted = invoicing.request_until_now()
    assert invoicing.issue(later=SEALING_TIME)
    stored = invoicing.stored(wanted)
    assert stored.result is Result.FAILED
    assert "did not seal the events in time" in (stored.problem or "")
    assert not invoicing.artifacts.exists(stored.json_ref)
    assert invoicing.request_until_now().result is None, "it can be requested again"


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ("replace(convert_from(state, 'UTF8'), '9000000', '9000001')::bytea", "as it was sealed"),
        (r"'\xff'::bytea", "Event"),
        ("'[]'::bytea", "Event"),
    ],
)
def test_a_changed_event_fails_only_the_invoices_of_its_account(
    invoicing: Invoicing, state: str, problem: str
) -> None:
    invoicing.tamper(
        f"UPDATE ecolink_events SET state = {state} "
        "WHERE topic = 'CreditGranted' AND originator_id = %s AND originator_version = 2",
        ACCOUNT_ID,
    )
    changed, other = invoicing.request(), invoicing.request(IDLE)
    while invoicing.issue():
        pass
    failed = invoicing.stored(changed)
    assert failed.result is Result.FAILED
    assert problem in (failed.problem or "")
    assert not invoicing.artifacts.exists(failed.pdf_ref)
    assert invoicing.stored(other).is_ready
