"""Erasure of an account's personal data, after the event that orders it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from psycopg_pool import ConnectionPool

from domain.billing.account import Account
from domain.core.aggregate import Aggregate
from infrastructure.accounts.personal_data import delete_personal_data
from infrastructure.artifacts.store import Artifacts
from infrastructure.bus.event_handlers import Handlers
from infrastructure.postgres.store import Connection


def erasing(pool: ConnectionPool[Connection], artifacts: Artifacts) -> Handlers:
    """Return an event handler that deletes the data of erased accounts."""

    def erase(event: Account.AccountErased) -> Sequence[Aggregate]:
        with pool.connection() as connection:
            deleted = delete_personal_data(connection, artifacts, event.account_id)
        logging.getLogger("erasing").info(
            "erased account %s: deleted %d rows and %d files",
            event.account_id,
            deleted.rows,
            deleted.files,
        )
        return []

    return {Account.AccountErased: erase}
