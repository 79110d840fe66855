"""Invoices that users requested, and their results.

The gateway adds requests. The sealer, which has the log's key, issues the invoices and stores their
files. No invoice is in the event log, because each can be calculated from the log again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Self
from uuid import UUID

from psycopg.rows import class_row

from domain.audit.invoice import Period
from domain.audit.sealed_invoice import Result
from domain.core.identity import created_id
from infrastructure.store import Connection, scalar

DDL = """
CREATE TABLE IF NOT EXISTS invoices (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    first_day date NOT NULL,
    last_day date NOT NULL,
    until timestamptz NOT NULL,
    requested_at timestamptz NOT NULL,
    issued_at timestamptz,
    result text,
    problem text,
    charges_micros bigint,
    closing_micros bigint
);
CREATE INDEX IF NOT EXISTS invoices_of_account ON invoices (account_id, first_day);
CREATE INDEX IF NOT EXISTS invoices_to_issue ON invoices (requested_at) WHERE result IS NULL
"""


@dataclass(frozen=True)
class Issued:
    """The result of a request. `problem` is set if the invoice could not be issued."""

    result: Result
    problem: str | None = None
    charges_micros: int | None = None
    closing_micros: int | None = None


@dataclass(frozen=True)
class RequestedInvoice:
    """An invoice from `first_day` to `last_day`, both included, in UTC.

    `until` is the end of the last day, or the time of the request if that was earlier. `result` is
    None until the sealer has issued the invoice.
    """

    id: UUID
    account_id: UUID
    first_day: date
    last_day: date
    until: datetime
    requested_at: datetime
    issued_at: datetime | None = None
    result: Result | None = None
    problem: str | None = None
    charges_micros: int | None = None
    closing_micros: int | None = None

    def __post_init__(self) -> None:
        if self.result is not None:  # PostgreSQL returns a text
            object.__setattr__(self, "result", Result(self.result))

    @classmethod
    def of(cls, account_id: UUID, first: date, last: date, now: datetime) -> Self:
        """Return a new request. An account has one invoice for the same days."""
        until = min(Period.days(first, last).end, now)
        return cls(
            created_id(account_id, "invoice", f"{first}/{last}"),
            account_id,
            first,
            last,
            until,
            now,
        )

    @property
    def period(self) -> Period:
        """The period of the invoice, which ends at `until`."""
        return Period(start=Period.days(self.first_day, self.last_day).start, end=self.until)

    @property
    def is_ready(self) -> bool:
        """True if the files exist."""
        return self.result is not None and self.result is not Result.FAILED

    @property
    def json_ref(self) -> str:
        """Reference of the JSON file in the artifact store."""
        return f"invoices/{self.id}/invoice.json"

    @property
    def pdf_ref(self) -> str:
        """Reference of the PDF file in the artifact store."""
        return f"invoices/{self.id}/invoice.pdf"


def request_invoice(connection: Connection, wanted: RequestedInvoice) -> RequestedInvoice:
    """Store a request, and return what is stored.

    A waiting request and an invoice that a new one cannot improve stay as they are. Other invoices
    for the same days are issued again: those that failed, that ended during their last day, or
    that were not proven to be complete.
    """
    connection.execute(
        "INSERT INTO invoices (id, account_id, first_day, last_day, until, requested_at) "
        "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO UPDATE SET "
        "until = excluded.until, requested_at = excluded.requested_at, issued_at = NULL, "
        "result = NULL, problem = NULL, charges_micros = NULL, closing_micros = NULL "
        "WHERE invoices.result IS NOT NULL "
        "AND (invoices.result <> %s OR invoices.until < excluded.until)",
        [
            *(wanted.id, wanted.account_id, wanted.first_day, wanted.last_day),
            *(wanted.until, wanted.requested_at, Result.PROVEN),
        ],
    )
    stored = invoice_with(connection, wanted.id)
    assert stored is not None
    return stored


def invoice_with(connection: Connection, invoice_id: UUID) -> RequestedInvoice | None:
    """Return the invoice with an ID, or None."""
    with connection.cursor(row_factory=class_row(RequestedInvoice)) as cursor:
        return cursor.execute("SELECT * FROM invoices WHERE id = %s", [invoice_id]).fetchone()


def invoices_of(connection: Connection, account_id: UUID) -> list[RequestedInvoice]:
    """Return the invoices of an account, the latest period first."""
    with connection.cursor(row_factory=class_row(RequestedInvoice)) as cursor:
        return cursor.execute(
            "SELECT * FROM invoices WHERE account_id = %s ORDER BY first_day DESC, last_day DESC",
            [account_id],
        ).fetchall()


def latest_invoices(connection: Connection, limit: int) -> list[RequestedInvoice]:
    """Return the latest requests of all accounts, newest first."""
    with connection.cursor(row_factory=class_row(RequestedInvoice)) as cursor:
        return cursor.execute(
            "SELECT * FROM invoices ORDER BY requested_at DESC, id LIMIT %s", [limit]
        ).fetchall()


def invoice_count(connection: Connection, account_id: UUID) -> int:
    """Return the number of invoices of an account."""
    return scalar(connection, "SELECT count(*) FROM invoices WHERE account_id = %s", [account_id])


def next_to_issue(connection: Connection) -> RequestedInvoice | None:
    """Return the oldest request without a result, or None."""
    with connection.cursor(row_factory=class_row(RequestedInvoice)) as cursor:
        return cursor.execute(
            "SELECT * FROM invoices WHERE result IS NULL ORDER BY requested_at, id LIMIT 1"
        ).fetchone()


def finish(
    connection: Connection, invoice: RequestedInvoice, issued: Issued, now: datetime
) -> None:
    """Store the result of a request."""
    connection.execute(
        "UPDATE invoices SET issued_at = %s, result = %s, problem = %s, charges_micros = %s, "
        "closing_micros = %s WHERE id = %s",
        [
            *(now, issued.result, issued.problem),
            *(issued.charges_micros, issued.closing_micros, invoice.id),
        ],
    )
