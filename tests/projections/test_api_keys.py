"""Keys as their holder sees them: the hint, and when they were issued and revoked."""

from __future__ import annotations

from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from infrastructure.store import Connection
from projections import API_KEYS
from projections.api_keys import keys_of
from tests.builders.commands import NOW, command
from tests.builders.examples import ACCOUNT_ID
from tests.builders.history import SECRET, History
from tests.projections.conftest import Fold


def test_a_key_shows_its_hint_and_nothing_that_opens_a_door(
    pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    key = history.issue_key()
    fold(API_KEYS)
    with pool.connection() as connection:
        (row,) = keys_of(connection, ACCOUNT_ID)
    assert row == {
        "key_id": key.id,
        "account_id": ACCOUNT_ID,
        "hint": SECRET[-4:],
        "issued_at": NOW,
        "revoked_at": None,
    }


def test_a_revoked_key_says_since_when(
    log: EventLog, pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    with command("revoke"):
        key = history.issue_key()
        key.revoke()
        log.commit(key)
    fold(API_KEYS)
    with pool.connection() as connection:
        (row,) = keys_of(connection, ACCOUNT_ID)
    assert row["revoked_at"] == NOW
