"""Rebuilds: readers see the old tables until the new ones are complete."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from deploy.migrate import migrate
from domain.core.aggregate import Event
from domain.core.errors import WrongState
from domain.core.event_log import EventLog
from domain.core.recorded import Recorded
from domain.core.value import Value
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.postgres import event_batches
from infrastructure.postgres.store import Connection, connect
from infrastructure.settings import Settings
from projections import ACCOUNTS, BILLING_LEDGER, DATASETS, PROJECTIONS, rebuilding
from projections.accounts import all_accounts
from projections.projection import (
    Cursor,
    ForeignShape,
    Projection,
    ProjectionEffect,
    fields_of,
    is_prepared,
    lowest_position,
    one_by_one,
)
from projections.rebuilding import LOCK_MILLISECONDS, Progress, rebuild
from tests.builders.examples import ACCOUNT_ID
from tests.builders.history import History
from tests.logs import grow, ids, notifications
from tests.polling import eventually
from tests.projections.conftest import Fold, OtherRelease
from tests.projections.test_projection import contents

Rebuild = Callable[..., int]


@pytest.fixture
def rebuilt(settings: Settings) -> Rebuild:
    """Rebuild projections. Return the number of applied events."""

    def run(*projections: Projection, progress: Progress = lambda *_: None) -> int:
        assert settings.owner_database_url is not None
        return rebuild(settings.owner_database_url, projections, progress)

    return run


def as_owner(settings: Settings, query: str, *values: object) -> list[tuple[object, ...]]:
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url) as owner:
        return owner.execute(query.encode(), values).fetchall()


def facts_of(settings: Settings, projection: Projection) -> list[tuple[object, ...]]:
    """Return the columns, indexes, keys, grants and owner of a projection's tables."""
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


def left_schemas(settings: Settings) -> list[tuple[object, ...]]:
    return as_owner(settings, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'rebuild%%'")


def test_new_tables_have_the_rows_indexes_and_grants_of_the_old_ones(
    settings: Settings, history: History, fold: Fold, rebuilt: Rebuild, subtests: pytest.Subtests
) -> None:
    history.run_with_a_crash()
    history.undeploy(history.deploy_checkpoint(10))
    history.issue_key()
    history.pay_by_card()
    events = notifications(history.log)
    for projection in PROJECTIONS:
        with subtests.test(projection.name):
            connection = fold(projection)
            before, rows = facts_of(settings, projection), contents(connection, projection)
            needed = [each for each in events if each.topic in projection.topics]
            assert rebuilt(projection) == len(needed)
            assert facts_of(settings, projection) == before
            assert contents(connection, projection) == rows
            assert lowest_position(connection, [projection]) == events[-1].id
            assert left_schemas(settings) == []


def test_readers_see_the_old_rows_with_new_events_until_the_swap(
    log: EventLog, fold: Fold, rebuilt: Rebuild, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_batches, "BATCH_EVENTS", 500)
    grow(log, 1200)
    connection = fold(ACCOUNTS)
    connection.execute("UPDATE accounts SET balance_micros = -1")
    seen: list[int] = []

    def progress(position: int, last_event: int) -> None:
        grow(log, 1)
        seen.append(all_accounts(fold(ACCOUNTS))[0]["balance_micros"])

    rebuilt(ACCOUNTS, progress=progress)
    assert seen == list(range(len(seen)))  # the wrong row plus one credit each time
    assert len(seen) >= 3
    assert all_accounts(connection)[0]["balance_micros"] == 1200 + len(seen) - 1
    assert lowest_position(connection, [ACCOUNTS]) == ids(log)[-1]


def test_a_running_projector_neither_omits_nor_repeats_an_event(
    log: EventLog, pool: ConnectionPool[Connection], fold: Fold, rebuilt: Rebuild
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
            rebuilt(BILLING_LEDGER)
        for each in working:
            each.result()
    connection = fold(BILLING_LEDGER)
    rows = contents(connection, BILLING_LEDGER)
    rebuilt(BILLING_LEDGER)
    assert contents(connection, BILLING_LEDGER) == rows
    assert len(rows[0]) == 599 + 30 * 5  # a posting for each credit


def test_a_killed_rebuild_keeps_the_old_rows_and_the_next_one_succeeds(
    settings: Settings,
    log: EventLog,
    fold: Fold,
    rebuilt: Rebuild,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_batches, "BATCH_EVENTS", 500)
    grow(log, 1200)
    connection = fold(ACCOUNTS)
    rows = contents(connection, ACCOUNTS)

    def killed(position: int, last_event: int) -> None:
        if position > ids(log)[600]:  # after the first batch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebuilt(ACCOUNTS, progress=killed)
    assert left_schemas(settings) == [("rebuild_accounts",)]
    assert contents(connection, ACCOUNTS) == rows
    rebuilt(ACCOUNTS)
    assert contents(connection, ACCOUNTS) == rows
    assert left_schemas(settings) == []


def test_a_failure_during_the_swap_keeps_the_old_rows(
    log: EventLog, fold: Fold, rebuilt: Rebuild
) -> None:
    grow(log, 10)
    connection = fold(ACCOUNTS)
    rows = contents(connection, ACCOUNTS)

    def apply(cursor: Cursor, event: Event) -> None:
        if event.event_id == f"{ACCOUNT_ID}:11":  # after the last batch
            raise RuntimeError("killed")
        ACCOUNTS.apply(cursor, [Recorded.of(1, event)])

    with pytest.raises(RuntimeError, match="killed"):
        rebuilt(replace(ACCOUNTS, apply=one_by_one(apply)), progress=lambda *_: grow(log, 1))
    assert contents(connection, ACCOUNTS) == rows
    assert lowest_position(connection, [ACCOUNTS]) < ids(log)[-1]


def test_a_swap_waits_for_a_reader_without_blocking_others(
    settings: Settings, log: EventLog, fold: Fold, rebuilt: Rebuild
) -> None:
    grow(log, 3)
    fold(DATASETS)
    waiting = (
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
        "AND query LIKE 'LOCK TABLE%%dataset_tokens%%' AND datname = current_database()"
    )
    with connect(settings, autocommit=False) as reader:
        reader.execute("SELECT * FROM dataset_tokens")
        thread = threading.Thread(target=rebuilt, args=[DATASETS])
        thread.start()
        eventually(lambda: bool(as_owner(settings, waiting)), 60)
        # The swap holds `datasets` and gives up before PostgreSQL ends this reader's deadlock.
        reader.execute("SELECT * FROM datasets")
        assert thread.is_alive()
        reader.rollback()
    thread.join(60)
    assert not thread.is_alive()
    assert left_schemas(settings) == []
    assert LOCK_MILLISECONDS < 1000  # PostgreSQL looks for deadlocks after a second


def test_a_reader_of_one_read_model_does_not_delay_the_others(
    settings: Settings, log: EventLog, fold: Fold, rebuilt: Rebuild
) -> None:
    grow(log, 3)
    connection = fold(DATASETS, ACCOUNTS)
    connection.execute("UPDATE accounts SET balance_micros = 7")
    with connect(settings, autocommit=False) as reader:
        reader.execute("SELECT * FROM datasets")
        thread = threading.Thread(target=rebuilt, args=[ACCOUNTS, DATASETS])
        thread.start()
        eventually(lambda: all_accounts(connection)[0]["balance_micros"] == 2, 60)
        assert thread.is_alive()
        reader.rollback()
    thread.join(60)
    assert not thread.is_alive()
    assert left_schemas(settings) == []


def test_read_models_of_one_pass_have_the_events_that_arrive_meanwhile(
    log: EventLog, fold: Fold, rebuilt: Rebuild
) -> None:
    grow(log, 20)
    projections = (ACCOUNTS, BILLING_LEDGER, DATASETS)
    connection = fold(*projections)
    rebuilt(*projections, progress=lambda *_: grow(log, 1))
    fold(*projections)
    found = [contents(connection, each) for each in projections]
    rebuilt(*projections)
    assert lowest_position(connection, projections) == ids(log)[-1]
    assert [contents(connection, each) for each in projections] == found


def test_a_second_rebuild_of_a_projection_is_refused(log: EventLog, rebuilt: Rebuild) -> None:
    grow(log, 3)
    refused: list[int] = []

    def again(position: int, last_event: int) -> None:
        with pytest.raises(WrongState):
            rebuilt(ACCOUNTS)
        refused.append(position)

    rebuilt(ACCOUNTS, progress=again)
    assert refused == ids(log)[-1:]
    rebuilt(ACCOUNTS)


def test_a_migration_rebuilds_only_tables_of_another_shape(
    settings: Settings, log: EventLog, fold: Fold, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(log, 3)
    connection = fold(ACCOUNTS)
    connection.execute("UPDATE accounts SET balance_micros = 7")
    migrate(settings)
    assert all_accounts(connection)[0]["balance_micros"] == 7
    wider = replace(ACCOUNTS, ddl=f"{ACCOUNTS.ddl}; ALTER TABLE accounts ADD COLUMN note text")
    monkeypatch.setattr("deploy.migrate.PROJECTIONS", [wider])
    migrate(settings)
    (account,) = all_accounts(connection)
    assert (account["balance_micros"], account["note"]) == (2, None)
    assert lowest_position(connection, [wider]) == ids(log)[-1]
    assert is_prepared(connection, wider)


def test_a_projector_that_waits_for_the_swap_of_another_release_changes_nothing(
    log: EventLog,
    pool: ConnectionPool[Connection],
    fold: Fold,
    other_release: OtherRelease,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has locked no position yet when the swap begins, and decides after the swap."""
    grow(log, 3)
    connection = fold(ACCOUNTS)
    outcomes: list[type[Exception] | None] = []
    threads: list[threading.Thread] = []

    def apply() -> None:
        try:
            OrderedConsumer(ProjectionEffect(ACCOUNTS, pool.connection), log).catch_up()
        except Exception as error:  # noqa: BLE001  # compared below
            outcomes.append(type(error))
        else:
            outcomes.append(None)

    def waiting() -> bool:
        query = "SELECT FROM pg_stat_activity WHERE datname = current_database() "
        return connection.execute(f"{query} AND wait_event_type = 'Lock'").rowcount > 0  # type: ignore[arg-type]

    record = rebuilding._Rebuild._record

    def record_later(self: Any, projection: Projection, position: int) -> None:
        grow(log, 1)
        threads.append(threading.Thread(target=apply))
        threads[0].start()
        eventually(waiting)
        record(self, projection, position)

    monkeypatch.setattr(rebuilding._Rebuild, "_record", record_later)
    other_release.rebuild(ACCOUNTS)
    threads[0].join()
    assert outcomes == [ForeignShape]
    assert all_accounts(connection)[0]["balance_micros"] == 2


def test_a_query_survives_a_new_column_of_its_table(
    log: EventLog, fold: Fold, other_release: OtherRelease
) -> None:
    """PostgreSQL refuses a prepared query whose result has other columns than before."""
    grow(log, 3)
    connection = fold(ACCOUNTS)
    for _ in range(10):  # a repeated query is prepared
        all_accounts(connection)
    other_release.rebuild(ACCOUNTS)
    (account,) = all_accounts(connection)
    assert (account["balance_micros"], account["note"]) == (2, None)
    with connection.transaction():
        assert len(all_accounts(connection)) == 1


def test_a_transaction_that_met_a_new_column_succeeds_when_it_is_repeated(
    log: EventLog, fold: Fold, other_release: OtherRelease
) -> None:
    grow(log, 3)
    connection = fold(ACCOUNTS)
    for _ in range(10):
        all_accounts(connection)
    other_release.rebuild(ACCOUNTS)
    with pytest.raises(psycopg.errors.FeatureNotSupported), connection.transaction():
        all_accounts(connection)
    with connection.transaction():
        assert len(all_accounts(connection)) == 1


def test_a_changed_fold_needs_a_rebuild(log: EventLog, fold: Fold, rebuilt: Rebuild) -> None:
    corrected = replace(ACCOUNTS, fold=2)
    grow(log, 3)
    connection = fold(ACCOUNTS)
    assert is_prepared(connection, ACCOUNTS)
    assert not is_prepared(connection, corrected)
    rebuilt(corrected)
    assert is_prepared(connection, corrected)


class Part(Value):
    """A value in an event."""

    size: int


class WiderPart(Part):
    """The same value after a release added a field to it."""

    color: str | None = None


class Packed(Event):
    TOPIC = "Packed"
    parts: tuple[Part, ...] | None


class WiderPacked(Event):
    TOPIC = "Packed"
    parts: tuple[WiderPart, ...] | None


def test_a_new_field_in_a_value_of_an_event_changes_the_shape() -> None:
    assert "size" in fields_of(Packed)
    assert "color" in fields_of(WiderPacked)
    assert fields_of(Packed) != fields_of(WiderPacked)
