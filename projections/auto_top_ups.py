"""Accounts with automatic top-ups that are on, and whether a charge is running."""

from __future__ import annotations

from uuid import UUID

from domain.billing.auto_top_up import AutoTopUp
from domain.core.aggregate import Event
from infrastructure.store import Connection
from projections.projection import Cursor, Projection, update

DDL = """
CREATE TABLE IF NOT EXISTS auto_top_ups (
    account_id uuid PRIMARY KEY,
    enabled boolean NOT NULL,
    charging boolean NOT NULL,
    threshold_micros bigint NOT NULL
)
"""


def apply(cursor: Cursor, event: Event) -> None:
    """Apply one event to the table."""
    key = {"account_id": event.account_id}
    match event:
        case AutoTopUp.CardSaved():
            cursor.execute(
                "INSERT INTO auto_top_ups VALUES (%s, false, false, 0)", [event.account_id]
            )
        case AutoTopUp.AutoTopUpSet(threshold_micros=threshold):
            update(cursor, "auto_top_ups", key, enabled=True, threshold_micros=threshold)
        case AutoTopUp.AutoTopUpDisabled():
            update(cursor, "auto_top_ups", key, enabled=False)
        case AutoTopUp.AutoTopUpStarted():
            update(cursor, "auto_top_ups", key, charging=True)
        case AutoTopUp.AutoTopUpEnded():
            update(cursor, "auto_top_ups", key, charging=False)
        case _:
            pass


AUTO_TOP_UPS = Projection("auto_top_ups", ("auto_top_ups",), DDL, apply)


def accounts_to_top_up(connection: Connection) -> list[UUID]:
    """Return the accounts whose balance is below the threshold of their automatic top-ups.

    The monthly maximum can still prevent a charge.
    """
    rows = connection.execute(
        "SELECT account_id FROM auto_top_ups JOIN accounts USING (account_id) "
        "WHERE enabled AND NOT charging AND balance_micros < threshold_micros ORDER BY account_id"
    ).fetchall()
    return [row["account_id"] for row in rows]
