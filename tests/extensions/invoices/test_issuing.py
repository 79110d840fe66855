"""Invoices that users request, issued by the sealer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from domain.core.event_log import EventLog
from extensions.invoices.domain.sealed_invoice import Result
from extensions.invoices.invoice_file import verify_file
from extensions.invoices.issuer import Issuer
from extensions.invoices.issuing import NOT_ISSUED, SEALING_TIME
from extensions.invoices.issuing import Invoicing as Service
from extensions.invoices.tables import (
    Issued,
    RequestedInvoice,
    answer_request,
    invoice_with,
    request_invoice,
)
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.store import Connection, connect
from infrastructure.seals.archive import SealArchive
from infrastructure.settings import Settings
from services.sealer.sealer import Sealer
from tests.builders.bills import Bills
from tests.builders.examples import ACCOUNT_ID
from tests.extensions.invoices.bills import KEY, ORIGIN, two_months

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
        self.service = Service(self.issuer, self.artifacts)

    def seal(self) -> None:
        sealer = Sealer(self.archive, ORIGIN, KEY, lambda: datetime.now(UTC))
        sealer.resume(self.store)
        while sealer.step(self.store):
            pass
        sealer.export()

    def request(self, account_id: UUID = ACCOUNT_ID) -> RequestedInvoice:
        """Request the invoice of October."""
        wanted = RequestedInvoice.of(account_id, FIRST, LAST, datetime.now(UTC), account_id)
        return request_invoice(self.store, wanted)

    def request_until_now(self) -> RequestedInvoice:
        """Add an event, and request an invoice that includes it."""
        before = datetime.now(UTC)
        Bills(self.log, before).history.top_up(1_000_000, f"transfer at {before}")
        now = datetime.now(UTC)
        return request_invoice(
            self.store, RequestedInvoice.of(ACCOUNT_ID, FIRST, now.date(), now, ACCOUNT_ID)
        )

    def issue(self, later: timedelta = timedelta()) -> None:
        """Answer all requests that need not wait."""
        self.service.answer(datetime.now(UTC) + later)

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
    assert wanted.is_waiting
    invoicing.issue()
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
    assert not stored.is_waiting


def test_a_complete_invoice_is_not_issued_again(invoicing: Invoicing) -> None:
    wanted = invoicing.request()
    invoicing.issue()
    assert invoicing.request() == invoicing.stored(wanted)
    assert not invoicing.stored(wanted).is_waiting


def test_an_invoice_is_complete_after_a_later_event(invoicing: Invoicing) -> None:
    wanted = invoicing.request(IDLE)
    invoicing.issue()
    assert invoicing.stored(wanted).result is Result.COMPLETENESS_NOT_PROVEN

    bills = Bills(invoicing.log, datetime.now(UTC), IDLE)
    bills.history.top_up(1_000_000, "transfer 30")
    invoicing.seal()
    assert invoicing.request(IDLE).is_waiting
    invoicing.issue()
    assert invoicing.stored(wanted).result is Result.PROVEN


def test_an_invoice_until_now_is_another_one_than_the_next(invoicing: Invoicing) -> None:
    """A signed invoice never changes."""
    first = invoicing.request_until_now()
    assert invoicing.request_until_now() == first, "it waits already"
    invoicing.seal()
    invoicing.issue()
    issued = invoicing.stored(first)
    content = invoicing.artifacts.get(first.json_ref)
    assert issued.closing_micros is not None

    second = invoicing.request_until_now()
    assert second.id != first.id
    invoicing.seal()
    invoicing.issue()
    assert invoicing.stored(first) == issued
    assert invoicing.artifacts.get(first.json_ref) == content
    assert (invoicing.stored(second).closing_micros or 0) > issued.closing_micros


def test_a_failed_attempt_keeps_the_earlier_invoice(invoicing: Invoicing) -> None:
    wanted = invoicing.request(IDLE)
    invoicing.issue()
    issued = invoicing.stored(wanted)
    assert issued.result is Result.COMPLETENESS_NOT_PROVEN
    invoicing.tamper(
        "UPDATE ecolink_events SET state = replace(convert_from(state, 'UTF8'), '9000000', "
        "'9000001')::bytea WHERE topic = 'CreditGranted' AND originator_id = %s",
        IDLE,
    )
    assert invoicing.request(IDLE).is_waiting
    assert invoicing.stored(wanted).is_ready, "its files stay meanwhile"
    invoicing.issue()
    failed = invoicing.stored(wanted)
    assert "as it was sealed" in (failed.problem or "")
    assert (failed.result, failed.closing_micros) == (issued.result, issued.closing_micros)
    content = invoicing.artifacts.get(failed.json_ref)
    assert verify_file(content, invoicing.issuer.log_key).failures == []


def test_an_invoice_waits_until_its_events_are_sealed_without_holding_up_others(
    invoicing: Invoicing,
) -> None:
    wanted = invoicing.request_until_now()
    other = invoicing.request()
    invoicing.issue()
    assert invoicing.stored(wanted).is_waiting
    assert invoicing.stored(other).is_ready
    invoicing.seal()
    invoicing.issue()
    assert invoicing.stored(wanted).is_ready


def test_an_invoice_fails_if_its_events_are_never_sealed(invoicing: Invoicing) -> None:
    wanted = invoicing.request_until_now()
    invoicing.issue(later=SEALING_TIME)
    stored = invoicing.stored(wanted)
    assert stored.result is Result.FAILED
    assert "did not seal the events in time" in (stored.problem or "")
    assert not invoicing.artifacts.exists(stored.json_ref)
    invoicing.seal()
    invoicing.issue()
    assert invoicing.stored(wanted).result is Result.FAILED, "only a new request repeats it"
    assert invoicing.request_until_now().is_waiting


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
    invoicing.issue()
    failed = invoicing.stored(changed)
    assert failed.result is Result.FAILED
    assert problem in (failed.problem or "")
    assert not invoicing.artifacts.exists(failed.pdf_ref)
    assert invoicing.stored(other).is_ready


def test_a_fault_of_ecolink_accuses_no_event(
    invoicing: Invoicing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(Issuer, "as_pdf", fail)
    wanted = invoicing.request()
    invoicing.issue()
    assert invoicing.stored(wanted).problem == NOT_ISSUED


def test_a_sealer_that_no_longer_leads_stores_no_invoice(invoicing: Invoicing) -> None:
    @contextmanager
    def refuse() -> Iterator[None]:
        raise psycopg.errors.RaiseException("another sealer leads")
        yield

    wanted = invoicing.request()
    service = Service(invoicing.issuer, invoicing.artifacts, refuse)
    with pytest.raises(psycopg.Error):
        service.answer(datetime.now(UTC))
    assert invoicing.stored(wanted).is_waiting
    assert not invoicing.artifacts.exists(wanted.json_ref)


def test_an_old_answer_does_not_end_a_newer_request(invoicing: Invoicing) -> None:
    wanted = invoicing.request(IDLE)
    invoicing.issue()
    again = invoicing.request(IDLE)
    answer_request(invoicing.store, wanted, Issued(Result.FAILED, "late"), datetime.now(UTC))
    assert invoicing.stored(again).is_waiting
    assert invoicing.stored(again).problem is None
