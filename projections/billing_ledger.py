"""The double-entry ledger: one posting for each event that moves money, and nothing else.

Accounts: `cash` (what was paid in), `credits` (what the operator gave), `customer:<id>` (free
balance), `reserved:<id>` (held by leases) and `revenue`. A posting debits one account and credits
another with the same amount, so that the trial balance is zero by construction; a wrong posting is
mended by a reversal alone.
"""

from __future__ import annotations

from uuid import UUID

from domain.account import Account
from domain.aggregate import Event
from domain.meter import Meter
from infrastructure.store import Connection
from projections.projection import Cursor, Projection, Row

DDL = """
CREATE TABLE IF NOT EXISTS billing_ledger (
    event_id text PRIMARY KEY,
    position bigint NOT NULL,
    posted_at timestamptz NOT NULL,
    account_id uuid NOT NULL,
    debit text NOT NULL,
    credit text NOT NULL,
    amount_micros bigint NOT NULL CHECK (amount_micros > 0),
    reason text NOT NULL,
    reference text,
    job_id uuid,
    segment integer,
    minute integer,
    from_seconds integer,
    to_seconds integer,
    CHECK (debit <> credit),
    UNIQUE (account_id, position)
);
CREATE INDEX IF NOT EXISTS billing_ledger_job ON billing_ledger (job_id)
"""


def apply(cursor: Cursor, event: Event) -> None:
    """Post one event."""
    customer, reserved = f"customer:{event.account_id}", f"reserved:{event.account_id}"
    match event:
        case Account.CreditGranted():
            _post(cursor, event, "credits", customer, event.amount_micros, "credit granted")
        case Account.ToppedUp():
            _post(cursor, event, "cash", customer, event.amount_micros, "topped up")
        case Account.UsageSettled(reserved_micros=amount) if amount > 0:
            _post(cursor, event, customer, reserved, amount, "lease reserved")
        case Account.UsageSettled(reserved_micros=amount) if amount < 0:
            _post(cursor, event, reserved, customer, -amount, "lease released")
        case Meter.MinuteMetered(amount_micros=amount) if amount > 0:
            _post(cursor, event, reserved, "revenue", amount, "minute metered")
        case Account.ChargeReversed():
            _post(cursor, event, "revenue", customer, event.amount_micros, "lost work credited")
        case _:
            pass


def _post(
    cursor: Cursor, event: Event, debit: str, credit: str, amount_micros: int, reason: str
) -> None:
    named = ("reference", "job_id", "segment", "minute", "from_seconds", "to_seconds")
    work = [getattr(event, name, None) for name in named]
    cursor.execute(
        "INSERT INTO billing_ledger SELECT %s, coalesce(max(position), 0) + 1, "
        "%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s FROM billing_ledger WHERE account_id = %s",
        [
            event.event_id,
            event.timestamp,
            event.account_id,
            debit,
            credit,
            amount_micros,
            reason,
            *work,
            event.account_id,
        ],
    )


BILLING_LEDGER = Projection("billing_ledger", ("billing_ledger",), DDL, apply)


def postings_of(
    connection: Connection,
    account_id: UUID,
    job_id: UUID | None = None,
    after: int = 0,
    limit: int | None = None,
) -> list[Row]:
    """An account's postings in order, of one job or of all.

    A page has up to `limit` of them beyond the position `after`; the next one begins after the
    position of its last. Postings are only ever added, so pages neither miss nor repeat one.
    """
    return connection.execute(
        "SELECT * FROM billing_ledger WHERE account_id = %(account)s AND position > %(after)s "
        "AND (%(job)s::uuid IS NULL OR job_id = %(job)s) ORDER BY position LIMIT %(limit)s",
        {"account": account_id, "job": job_id, "after": after, "limit": limit},
    ).fetchall()


def balances(connection: Connection) -> dict[str, int]:
    """Credits less debits of every ledger account, micro-dollars; they sum to the trial balance."""
    rows = connection.execute(
        "SELECT account, sum(amount)::bigint AS micros FROM ("
        "SELECT credit AS account, amount_micros AS amount FROM billing_ledger UNION ALL "
        "SELECT debit, -amount_micros FROM billing_ledger) AS sides "
        "GROUP BY account ORDER BY account"
    ).fetchall()
    return {row["account"]: row["micros"] for row in rows}
