"""Rows of the event store that bills rest on, read without any read model."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import args_row

from domain.audit.sealed_event import StoredRow
from infrastructure.postgres.event_rows import COLUMNS


def rows_of_account(connection: psycopg.Connection[Any], account_id: UUID) -> list[StoredRow]:
    """Return all events of an account, its meters, its jobs and its syntheses.

    The rows are in the order of the log. The bytes of the state are compared as they are, because
    a changed state may not be JSON.
    """
    of_account = f'"account_id":"{account_id}"'.encode()
    with connection.cursor(row_factory=args_row(StoredRow), binary=True) as cursor:
        cursor.execute(
            f"SELECT {COLUMNS} FROM ecolink_events WHERE originator_id = %(account)s "
            "OR originator_id IN (SELECT originator_id FROM ecolink_events "
            "WHERE topic IN ('MeterOpened', 'JobApproved', 'TokenMeterOpened', "
            "'SynthesisApproved') "
            "AND position(%(of_account)s::bytea IN state) > 0) "
            "ORDER BY notification_id",
            {"account": account_id, "of_account": of_account},
        )
        return cursor.fetchall()
