"""Refunds and disputes of payments."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from domain.billing.payment import Payment, ReturnKind, ReturnStatus
from domain.core.aggregate import Event
from infrastructure.postgres.store import Connection
from projections.projection import Cursor, Projection, Row, one_by_one, update

DDL = """
CREATE TABLE IF NOT EXISTS payment_returns (
    payment_id uuid NOT NULL,
    return_id text NOT NULL,
    account_id uuid NOT NULL,
    kind text NOT NULL,
    status text NOT NULL,
    amount_micros bigint NOT NULL,
    withheld_micros bigint NOT NULL,
    lost_micros bigint NOT NULL,
    started_at timestamptz NOT NULL,
    PRIMARY KEY (payment_id, return_id)
);
CREATE INDEX IF NOT EXISTS payment_returns_account ON payment_returns (account_id, started_at);
CREATE INDEX IF NOT EXISTS payment_returns_open ON payment_returns (started_at)
    WHERE status = 'requested' OR (status = 'returned' AND kind = 'dispute')
"""


def apply(cursor: Cursor, event: Event) -> None:
    """Apply one event to the table."""
    match event:
        case Payment.RefundRequested(amount_micros=amount):
            status = ReturnStatus.REQUESTED
            _add(cursor, event, event.return_id, ReturnKind.REFUND, status, (amount, amount))
        case Payment.PaymentReturned(amount_micros=amount, withheld_micros=withheld):
            status = ReturnStatus.RETURNED
            _add(cursor, event, event.return_id, event.kind, status, (amount, withheld))
        case Payment.RefundFailed() | Payment.ReturnReversed():
            key = {"payment_id": event.originator_id, "return_id": event.return_id}
            undone = {"withheld_micros": 0, "lost_micros": 0}
            update(cursor, "payment_returns", key, status=ReturnStatus.REVERSED, **undone)
        case Payment.ReturnClosed():
            cursor.execute(
                "UPDATE payment_returns SET status = %s, lost_micros = %s, "
                "withheld_micros = withheld_micros + %s WHERE payment_id = %s AND return_id = %s",
                [
                    *(ReturnStatus.CLOSED, event.lost_micros, event.withheld_micros),
                    *(event.originator_id, event.return_id),
                ],
            )
        case _:
            pass


def _add(
    cursor: Cursor,
    event: Event,
    return_id: str,
    kind: ReturnKind,
    status: ReturnStatus,
    amounts: tuple[int, int],
) -> None:
    """Add a return. A requested refund that the provider confirms keeps what is withheld."""
    cursor.execute(
        "INSERT INTO payment_returns VALUES (%s, %s, %s, %s, %s, %s, %s, 0, %s) "
        "ON CONFLICT (payment_id, return_id) DO UPDATE SET status = excluded.status, "
        "withheld_micros = payment_returns.withheld_micros + excluded.withheld_micros",
        [
            *(event.originator_id, return_id, event.account_id, kind, status),
            *(*amounts, event.timestamp),
        ],
    )


PAYMENT_RETURNS = Projection(
    "payment_returns",
    ("payment_returns",),
    DDL,
    (
        Payment.RefundRequested,
        Payment.PaymentReturned,
        Payment.RefundFailed,
        Payment.ReturnReversed,
        Payment.ReturnClosed,
    ),
    one_by_one(apply),
)


def open_returns(connection: Connection, until: datetime) -> list[Row]:
    """Return the requested refunds and undecided disputes that began before a time, oldest first.

    Each row has the columns of the table.
    """
    return connection.execute(
        "SELECT * FROM payment_returns WHERE (status = 'requested' "
        "OR (status = 'returned' AND kind = 'dispute')) AND started_at < %s "
        "ORDER BY started_at, payment_id, return_id",
        [until],
    ).fetchall()


def returns_of(connection: Connection, account_id: UUID) -> list[Row]:
    """Return the refunds and disputes of an account, newest first."""
    return connection.execute(
        "SELECT * FROM payment_returns WHERE account_id = %s "
        "ORDER BY started_at DESC, payment_id, return_id",
        [account_id],
    ).fetchall()
