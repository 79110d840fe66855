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

from domain.core.identity import created_id
from extensions.invoices.domain.invoice import Period
from extensions.invoices.domain.sealed_invoice import Result
from infrastructure.extensions import Table
from infrastructure.postgres.store import Connection, scalar

INVOICES = Table(
    name="invoices",
    kept="Requests for invoices, with the account's ID and amounts.",
    time="coalesce(answered_at, requested_at)",
    ddl="""
CREATE TABLE IF NOT EXISTS invoices (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    first_day date NOT NULL,
    last_day date NOT NULL,
    until timestamptz NOT NULL,
    requested_by uuid NOT NULL,
    requested_at timestamptz NOT NULL,
    answered_at timestamptz,
    result text,
    problem text,
    charges_micros bigint,
    closing_micros bigint
);
CREATE INDEX IF NOT EXISTS invoices_of_account ON invoices (account_id, first_day);
CREATE INDEX IF NOT EXISTS invoices_by_requester ON invoices (requested_by);
CREATE INDEX IF NOT EXISTS invoices_to_issue ON invoices (requested_at) WHERE answered_at IS NULL
""",
)


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

    `until` is the end of the last day, or the time of the request if that was earlier.
    `answered_at` is None while the sealer works on the request. `result` and the amounts are those
    of the stored files, if there are any, and `problem` is that of the last attempt.
    """

    id: UUID
    account_id: UUID
    first_day: date
    last_day: date
    until: datetime
    requested_by: UUID
    requested_at: datetime
    answered_at: datetime | None = None
    result: Result | None = None
    problem: str | None = None
    charges_micros: int | None = None
    closing_micros: int | None = None

    def __post_init__(self) -> None:
        if self.result is not None:  # PostgreSQL returns a text
            object.__setattr__(self, "result", Result(self.result))

    @classmethod
    def of(
        cls, account_id: UUID, first: date, last: date, now: datetime, requested_by: UUID
    ) -> Self:
        """Return a new request. An account has one invoice for the same period."""
        until = min(Period.days(first, last).end, now)
        id = created_id(account_id, "invoice", f"{first}/{last}/{until.isoformat()}")
        return cls(id, account_id, first, last, until, requested_by, now)

    @property
    def period(self) -> Period:
        """The period of the invoice, which ends at `until`."""
        return Period(start=Period.days(self.first_day, self.last_day).start, end=self.until)

    @property
    def is_waiting(self) -> bool:
        """True if the sealer works on the request."""
        return self.answered_at is None

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

    If a request for the same days waits, return that one. A complete invoice stays as it is. One
    that failed or was not proven to be complete is issued again, and its files stay until then.
    """
    waiting = connection.execute(
        "SELECT id FROM invoices WHERE account_id = %s AND first_day = %s AND last_day = %s "
        "AND answered_at IS NULL",
        [wanted.account_id, wanted.first_day, wanted.last_day],
    ).fetchone()
    if waiting is None:
        connection.execute(
            "INSERT INTO invoices (id, account_id, first_day, last_day, until, requested_by, "
            "requested_at) VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO UPDATE SET "
            "requested_at = excluded.requested_at, answered_at = NULL "
            "WHERE invoices.result IS DISTINCT FROM %s",
            [
                *(wanted.id, wanted.account_id, wanted.first_day, wanted.last_day, wanted.until),
                *(wanted.requested_by, wanted.requested_at, Result.PROVEN),
            ],
        )
    stored = invoice_with(connection, wanted.id if waiting is None else waiting["id"])
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
            "SELECT * FROM invoices WHERE account_id = %s "
            "ORDER BY first_day DESC, last_day DESC, until DESC",
            [account_id],
        ).fetchall()


def latest_invoices(connection: Connection, limit: int) -> list[RequestedInvoice]:
    """Return the latest requests of all accounts, newest first."""
    with connection.cursor(row_factory=class_row(RequestedInvoice)) as cursor:
        return cursor.execute(
            "SELECT * FROM invoices ORDER BY requested_at DESC, id LIMIT %s", [limit]
        ).fetchall()


def invoices_requested_by(connection: Connection, requester: UUID) -> int:
    """Return the number of invoices that an account requested first, for itself or for others."""
    return scalar(connection, "SELECT count(*) FROM invoices WHERE requested_by = %s", [requester])


def waiting_requests(connection: Connection) -> list[RequestedInvoice]:
    """Return the requests that the sealer has not answered, oldest first."""
    with connection.cursor(row_factory=class_row(RequestedInvoice)) as cursor:
        return cursor.execute(
            "SELECT * FROM invoices WHERE answered_at IS NULL ORDER BY requested_at, id"
        ).fetchall()


def answer_request(
    connection: Connection, invoice: RequestedInvoice, issued: Issued, now: datetime
) -> None:
    """Store the result of a request. A failure keeps an earlier result and its files."""
    keeps = invoice.is_ready and issued.result is Result.FAILED
    stored = invoice if keeps else issued
    connection.execute(
        "UPDATE invoices SET answered_at = %s, result = %s, problem = %s, charges_micros = %s, "
        "closing_micros = %s WHERE id = %s AND requested_at = %s AND answered_at IS NULL",
        [
            *(now, stored.result, issued.problem, stored.charges_micros, stored.closing_micros),
            *(invoice.id, invoice.requested_at),
        ],
    )
