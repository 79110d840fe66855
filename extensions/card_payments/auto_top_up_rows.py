"""The automatic top-ups of accounts, their sum of the month, and whether a charge is running."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from domain.billing.auto_top_up import AutoTopUp
from domain.billing.budget import BudgetPeriod
from domain.core.aggregate import Event
from infrastructure.postgres.store import Connection
from projections.projection import Cursor, Projection, one_by_one, update

DDL = """
CREATE TABLE IF NOT EXISTS auto_top_ups (
    account_id uuid PRIMARY KEY,
    enabled boolean NOT NULL,
    charging boolean NOT NULL,
    threshold_micros bigint NOT NULL,
    amount_micros bigint NOT NULL,
    month_max_micros bigint NOT NULL,
    month date,
    month_micros bigint NOT NULL
)
"""


def apply(cursor: Cursor, event: Event) -> None:
    """Apply one event to the table."""
    key = {"account_id": event.account_id}
    match event:
        case AutoTopUp.CardSaved():
            cursor.execute(
                "INSERT INTO auto_top_ups VALUES (%s, false, false, 0, 0, 0, NULL, 0)",
                [event.account_id],
            )
        case AutoTopUp.AutoTopUpSet():
            update(
                cursor,
                "auto_top_ups",
                key,
                enabled=True,
                threshold_micros=event.threshold_micros,
                amount_micros=event.amount_micros,
                month_max_micros=event.month_max_micros,
            )
        case AutoTopUp.AutoTopUpDisabled():
            update(cursor, "auto_top_ups", key, enabled=False)
        case AutoTopUp.AutoTopUpStarted():
            month = BudgetPeriod.MONTH.first_day(event.timestamp.date())
            cursor.execute(
                "UPDATE auto_top_ups SET charging = true, month = greatest(month, %(month)s), "
                "month_micros = "
                "%(amount)s + CASE WHEN month >= %(month)s THEN month_micros ELSE 0 END "
                "WHERE account_id = %(account)s",
                {"month": month, "amount": event.amount_micros, "account": event.account_id},
            )
        case AutoTopUp.AutoTopUpEnded():
            cursor.execute(
                "UPDATE auto_top_ups SET charging = false, "
                "month_micros = greatest(0, month_micros - %s) WHERE account_id = %s",
                [0 if event.paid else event.amount_micros, event.account_id],
            )
        case _:
            pass


AUTO_TOP_UPS = Projection(
    "auto_top_ups",
    ("auto_top_ups",),
    DDL,
    (
        AutoTopUp.CardSaved,
        AutoTopUp.AutoTopUpSet,
        AutoTopUp.AutoTopUpDisabled,
        AutoTopUp.AutoTopUpStarted,
        AutoTopUp.AutoTopUpEnded,
    ),
    one_by_one(apply),
)


def accounts_to_top_up(connection: Connection, now: datetime) -> list[UUID]:
    """Return the accounts whose balance is below the threshold of their automatic top-ups.

    Omit suspended accounts, and those that one more top-up would bring above their maximum of the
    current month.
    """
    rows = connection.execute(
        "SELECT account_id FROM auto_top_ups JOIN accounts USING (account_id) "
        "WHERE enabled AND NOT charging AND suspension IS NULL "
        "AND balance_micros < threshold_micros AND month_max_micros >= amount_micros "
        "+ CASE WHEN month >= %s THEN month_micros ELSE 0 END ORDER BY account_id",
        [BudgetPeriod.MONTH.first_day(now.date())],
    ).fetchall()
    return [row["account_id"] for row in rows]
