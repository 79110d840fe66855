"""Accounts with bills, and their rows, seals and invoices."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domain.audit.merkle import root_of
from domain.audit.sealed_event import StoredRow, sealed_events
from domain.audit.tree_head import LogKey, TreeHead
from domain.core.event_log import EventLog
from extensions.invoices.domain.invoice import Period
from extensions.invoices.issuer import issue_invoice
from infrastructure.seals.tree import SealedTree
from tests.builders.bills import Bills, Run, day
from tests.builders.examples import ACCOUNT_ID
from tests.logs import notifications

ORIGIN = "ecolink/test"
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = LogKey(ORIGIN, KEY.public_key())

OCTOBER, NOVEMBER = Period.month("2026-10"), Period.month("2026-11")


def two_months(log: EventLog) -> Bills:
    """Return an account with two jobs in October, two in November, and a top-up in December.

    The events of another account are between its own.
    """
    bills = Bills(log)
    bills.history.open_account(9_000_000)
    other = Bills(log, account_id=UUID(int=7))
    other.history.open_account(9_000_000)
    bills.now = other.now = day(10, 5)
    bills.run(Run(3_600_000, 130))
    other.run(Run(3_600_000, 60))
    bills.run(Run(1_234_567, 200, kept_seconds=70))
    bills.now = other.now = day(11, 2)
    bills.history.top_up(5_000_000, "transfer 17")
    bills.run(Run(7_200_001, 601, gpu_type="h100"))
    other.run(Run(3_600_000, 60))
    bills.run(Run(7_200_001, 61, kept_seconds=1, gpu_type="h100"))
    with bills.history.changing_account() as account:
        account.grant_credit(250_000, "sorry")
    bills.now = day(12, 1)
    bills.history.top_up(1_000_000, "transfer 18")
    return bills


def stored_rows(log: EventLog) -> list[StoredRow]:
    """Return all rows of a log."""
    rows: list[StoredRow] = []
    for each in notifications(log):
        assert isinstance(each.originator_id, UUID)
        rows.append(
            StoredRow(
                each.id,
                each.originator_id.bytes,
                each.originator_version,
                each.topic,
                bytes(each.state),
            )
        )
    return rows


def rows_of(log: EventLog, account_id: UUID = ACCOUNT_ID) -> list[StoredRow]:
    """Return the rows of an account, its meters and its jobs."""
    of_account = f'"account_id":"{account_id}"'.encode()
    rows = stored_rows(log)
    originators = {
        row.originator_id
        for row in rows
        if row.topic in ("MeterOpened", "JobApproved") and of_account in row.state
    }
    originators.add(account_id.bytes)
    return [row for row in rows if row.originator_id in originators]


def sealed_tree(rows: Sequence[StoredRow], sealed_at: datetime = day(12, 2)) -> SealedTree:
    """Return the signed tree of a log."""
    events = sealed_events(rows)
    root, last = root_of([leaf for _, leaf in events]), events[-1].notification_id
    head = TreeHead(ORIGIN, len(events), root, last, sealed_at)
    return SealedTree.of(head.sign(KEY), head, events)


def invoice_file(log: EventLog, period: Period = NOVEMBER) -> bytes:
    """Return the JSON file of the account's invoice."""
    return issue_invoice(rows_of(log), sealed_tree(stored_rows(log)), KEY, ACCOUNT_ID, period)
