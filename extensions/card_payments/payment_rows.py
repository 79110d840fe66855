"""Card payments with their states."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from domain.billing.card_payment import CardPayment, CardPaymentStatus
from domain.core.aggregate import Event
from infrastructure.postgres.store import Connection
from projections.projection import Cursor, NewestFirst, Projection, Row, insert, one_by_one, update

DDL = """
CREATE TABLE IF NOT EXISTS card_payments (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    amount_micros bigint NOT NULL,
    automatic boolean NOT NULL,
    status text NOT NULL,
    checkout text,
    reference text,
    failure text,
    started_at timestamptz NOT NULL,
    ended_at timestamptz
);
CREATE INDEX IF NOT EXISTS card_payments_account ON card_payments (account_id, started_at);
CREATE INDEX IF NOT EXISTS card_payments_pending ON card_payments (started_at)
    WHERE status = 'pending'
"""


def apply(cursor: Cursor, event: Event) -> None:
    """Apply one event to the table."""
    match event:
        case CardPayment.CardPaymentStarted():
            insert(
                cursor,
                "card_payments",
                id=event.originator_id,
                account_id=event.account_id,
                amount_micros=event.amount_micros,
                automatic=event.automatic,
                status=CardPaymentStatus.PENDING,
                started_at=event.timestamp,
            )
        case CardPayment.CheckoutOpened():
            _update(cursor, event, checkout=event.checkout)
        case CardPayment.CardPaymentConfirmed():
            _update(
                cursor,
                event,
                status=CardPaymentStatus.PAID,
                reference=event.reference,
                failure=None,
                ended_at=event.timestamp,
            )
        case CardPayment.CardPaymentFailed():
            _update(
                cursor,
                event,
                status=CardPaymentStatus.FAILED,
                failure=event.reason,
                ended_at=event.timestamp,
            )
        case _:
            pass


def _update(cursor: Cursor, event: Event, **values: object) -> None:
    update(cursor, "card_payments", {"id": event.originator_id}, **values)


CARD_PAYMENTS = Projection(
    "card_payments", ("card_payments",), DDL, (CardPayment,), one_by_one(apply)
)

NEWEST_PAYMENTS = NewestFirst("card_payments", time="started_at", key="id")


def pending_payments(connection: Connection, until: datetime) -> list[Row]:
    """Return the pending payments that were started before a time, oldest first."""
    return connection.execute(
        "SELECT * FROM card_payments WHERE status = 'pending' AND started_at < %s "
        "ORDER BY started_at, id",
        [until],
    ).fetchall()


def newest_card_payments(
    connection: Connection, account_id: UUID, after: UUID | None, limit: int
) -> list[Row]:
    """Return up to `limit` payments of an account after the payment `after`, newest first."""
    return NEWEST_PAYMENTS.page(connection, account_id, after, limit)
