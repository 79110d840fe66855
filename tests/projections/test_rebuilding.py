"""A rebuild: new tables beside the old ones, which readers see until the new ones are complete."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from deploy.migrate import migrate
from domain.core.aggregate import Event
from domain.core.errors import WrongState
from domain.core.event_log import EventLog
from infrastructure.consumer import OrderedConsumer
from infrastructure.settings import Settings
from infrastructure.store import Connection, connect
from projections import ACCOUNTS, BILLING_LEDGER, DATASETS, PROJECTIONS
from projections.accounts import all_accounts
from projections.projection import (
    Cursor,
    Projection,
    ProjectionEffect,
    is_prepared,
    lowest_position,
)
from projections.rebuilding import LOCK_MILLISECONDS, rebuild
from tests.builders.examples import ACCOUNT_ID
from tests.builders.history import History
from tests.logs import grow, ids
from tests.polling import eventually
from tests.projections.conftest import Fold
from tests.projections.test_projection import contents


def silent(name: str, events: int, share: float) -> None:
    """Do nothing: no process watches."""


def rebuilt(settings: Settings, log: EventLog, projection: Projection) -> int:
    assert settings.owner_database_url is not None
    return rebuild(settings.owner_database_url, projection, log, silent)


def as_owner(settings: Settings, query: str, *values: object) -> list[tuple[object, ...]]:
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url) as owner:
        cursor = owner.execute(query.encode(), values)
        return cursor.fetchall() if cursor.description else []


def facts_of(settings: Settings, projection: Projection) -> list[tuple[object, ...]]:
    """Columns, indexes, keys, rights and owner of a projection's tables."""
    tables = list(projection.tables)
    return [
        *as_owner(
            settings,
            "SELECT attrelid::regclass::text, attname, attnum, atttypid, attnotnull "
            "FROM pg_attribute WHERE attrelid = ANY(%s::regclass[]) AND attnum > 0 ORDER BY 1, 3",
            tables,
        ),
        *as_owner(
            settings,
            "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = ANY(%s) ORDER BY 1",
            tables,
        ),
        *as_owner(
            settings,
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE conrelid = ANY(%s::regclass[]) ORDER BY 1",
            tables,
        ),
        *as_owner(
            settings,
            "SELECT relname, grantee::regrole::text, privilege_type, relowner FROM pg_class, "
            "aclexplode(relacl) WHERE oid = ANY(%s::regclass[]) ORDER BY 1, 2, 3",
            tables,
        ),
    ]


def left_over(settings: Settings) -> list[tuple[object, ...]]:
    return as_owner(
        settings,
        "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'rebuild%%'",
    )


@pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda projection: projection.name)
def test_new_tables_are_as_the_old_ones_were(
    settings: Settings,
    log: EventLog,
    pool: ConnectionPool[Connection],
    history: History,
    fold: Fold,
    projection: Projection,
) -> None:
    history.run_with_a_crash()
    history.undeploy(history.deploy_checkpoint(10))
    fold(projection)
    before = facts_of(settings, projection)
    with pool.connection() as connection:
        rows = contents(connection, projection)
    assert rebuilt(settings, log, projection) == len(ids(log))
    assert facts_of(settings, projection) == before
    with pool.connection() as connection:  # as the services' role
        assert contents(connection, projection) == rows
        assert lowest_position(connection, [projection]) == ids(log)[-1]
    assert left_over(settings) == []


def test_readers_see_the_old_rows_until_the_new_ones_are_complete(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], fold: Fold
) -> None:
    """Events go on meanwhile, and the projector puts them into the old rows."""
    grow(log, 1200)
    fold(ACCOUNTS)
    with pool.connection() as connection:
        connection.execute("UPDATE accounts SET balance_micros = -1")
    seen: list[int] = []

    def watch(name: str, events: int, share: float) -> None:
        grow(log, 1)
        OrderedConsumer(ProjectionEffect(ACCOUNTS, pool.connection), log).catch_up()
        with pool.connection() as connection:
            seen.append(all_accounts(connection)[0]["balance_micros"])

    assert settings.owner_database_url is not None
    rebuild(settings.owner_database_url, ACCOUNTS, log, watch)
    assert seen == list(range(len(seen)))  # the wrong row, and one more credit each time
    assert len(seen) >= 3
    with pool.connection() as connection:
        assert all_accounts(connection)[0]["balance_micros"] == 1200 + len(seen) - 1
        assert lowest_position(connection, [ACCOUNTS]) == ids(log)[-1]


def test_a_projector_that_goes_on_misses_no_event_and_applies_none_twice(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], fold: Fold
) -> None:
    grow(log, 600)
    fold(BILLING_LEDGER)
    ended = threading.Event()

    def write() -> None:
        for _ in range(30):
            grow(log, 5)
        ended.set()

    def project() -> None:
        consumer = OrderedConsumer(ProjectionEffect(BILLING_LEDGER, pool.connection), log)
        while not ended.is_set():
            consumer.catch_up(ids(log)[-1])

    with ThreadPoolExecutor() as threads:
        working = [threads.submit(write), threads.submit(project)]
        while not ended.is_set():
            rebuilt(settings, log, BILLING_LEDGER)
        for each in working:
            each.result()
    fold(BILLING_LEDGER)
    with pool.connection() as connection:
        rows = contents(connection, BILLING_LEDGER)
    rebuilt(settings, log, BILLING_LEDGER)
    with pool.connection() as connection:
        assert contents(connection, BILLING_LEDGER) == rows
    assert len(rows[0]) == 599 + 30 * 5  # a posting for each credit


def test_a_rebuild_that_failed_leaves_the_old_rows_and_the_next_one_succeeds(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], fold: Fold
) -> None:
    grow(log, 1200)
    fold(ACCOUNTS)
    with pool.connection() as connection:
        rows = contents(connection, ACCOUNTS)

    def killed(name: str, events: int, share: float) -> None:
        if events > 500:
            raise KeyboardInterrupt

    assert settings.owner_database_url is not None
    with pytest.raises(KeyboardInterrupt):
        rebuild(settings.owner_database_url, ACCOUNTS, log, killed)
    assert left_over(settings) == [("rebuild_accounts",)]
    with pool.connection() as connection:
        assert contents(connection, ACCOUNTS) == rows
    rebuilt(settings, log, ACCOUNTS)
    with pool.connection() as connection:
        assert contents(connection, ACCOUNTS) == rows
    assert left_over(settings) == []


def test_a_fold_that_fails_within_the_swap_leaves_the_old_rows(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], fold: Fold
) -> None:
    grow(log, 10)
    fold(ACCOUNTS)
    with pool.connection() as connection:
        rows = contents(connection, ACCOUNTS)

    def apply(cursor: Cursor, event: Event) -> None:
        if event.event_id == f"{ACCOUNT_ID}:11":
            raise RuntimeError("killed")
        ACCOUNTS.apply(cursor, event)

    assert settings.owner_database_url is not None
    with pytest.raises(RuntimeError, match="killed"):
        # The eleventh event comes after the last batch.
        rebuild(
            settings.owner_database_url,
            replace(ACCOUNTS, apply=apply),
            log,
            lambda *_: grow(log, 1),
        )
    with pool.connection() as connection:
        assert contents(connection, ACCOUNTS) == rows
        assert lowest_position(connection, [ACCOUNTS]) < ids(log)[-1]


def test_a_reader_in_the_way_is_waited_for_and_blocks_no_other_reader(
    settings: Settings, log: EventLog, fold: Fold
) -> None:
    grow(log, 3)
    fold(DATASETS)
    with connect(settings, autocommit=False) as reader:
        reader.execute("SELECT * FROM dataset_tokens")
        thread = threading.Thread(target=rebuilt, args=(settings, log, DATASETS))
        thread.start()
        eventually(
            lambda: bool(
                as_owner(
                    settings,
                    "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
                    "AND query LIKE 'LOCK TABLE%%dataset_tokens%%' "
                    "AND datname = current_database()",
                )
            ),
            60,
        )
        # The swap holds `datasets` now; it gives up before a deadlock would end this reader.
        reader.execute("SELECT * FROM datasets")
        assert thread.is_alive()
        reader.rollback()
    thread.join(60)
    assert not thread.is_alive()
    assert left_over(settings) == []
    assert LOCK_MILLISECONDS < 1000  # PostgreSQL looks for deadlocks after a second


def test_one_read_model_is_rebuilt_once_at_a_time(settings: Settings, log: EventLog) -> None:
    grow(log, 3)
    refused: list[str] = []

    def again(name: str, events: int, share: float) -> None:
        with pytest.raises(WrongState):
            rebuilt(settings, log, ACCOUNTS)
        refused.append(name)

    assert settings.owner_database_url is not None
    rebuild(settings.owner_database_url, ACCOUNTS, log, again)
    assert refused == ["accounts"]
    rebuilt(settings, log, ACCOUNTS)


def test_tables_of_another_shape_are_rebuilt_by_the_migration(
    settings: Settings,
    log: EventLog,
    pool: ConnectionPool[Connection],
    fold: Fold,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grow(log, 3)
    fold(ACCOUNTS)
    with pool.connection() as connection:
        connection.execute("UPDATE accounts SET balance_micros = 7")
    migrate(settings)
    with pool.connection() as connection:  # the same shape: nothing is rebuilt
        assert all_accounts(connection)[0]["balance_micros"] == 7
    wider = replace(ACCOUNTS, ddl=f"{ACCOUNTS.ddl}; ALTER TABLE accounts ADD COLUMN note text")
    monkeypatch.setattr("deploy.migrate.PROJECTIONS", [wider])
    migrate(settings)
    with pool.connection() as connection:
        (account,) = all_accounts(connection)
        assert (account["balance_micros"], account["note"]) == (2, None)
        assert lowest_position(connection, [wider]) == ids(log)[-1]
        assert is_prepared(connection, wider)


def test_rows_of_another_fold_are_rebuilt(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], fold: Fold
) -> None:
    """Their tables have the shape that they had, but the same events make other rows."""
    corrected = replace(ACCOUNTS, fold=2)
    grow(log, 3)
    fold(ACCOUNTS)
    with pool.connection() as connection:
        assert is_prepared(connection, ACCOUNTS)
        assert not is_prepared(connection, corrected)
        rebuilt(settings, log, corrected)
        assert is_prepared(connection, corrected)
