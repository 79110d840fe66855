"""Erasure of an account's personal data, after the event that orders it."""

from __future__ import annotations

import logging
from uuid import UUID

from psycopg_pool import ConnectionPool

from infrastructure.artifacts import Artifacts
from infrastructure.personal_data import delete_personal_data
from infrastructure.store import Connection


def erase(pool: ConnectionPool[Connection], artifacts: Artifacts, account_id: UUID) -> None:
    """Delete all rows and files with personal data of an account. Idempotent."""
    with pool.connection() as connection:
        deleted = delete_personal_data(connection, artifacts, account_id)
    logging.getLogger("erasing").info(
        "erased account %s: %d rows, %d files", account_id, deleted.rows, deleted.files
    )
