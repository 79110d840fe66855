"""The event store: append-only, durable and ordered."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import psycopg
import pytest
from eventsourcing.persistence import OperationalError, Tracking
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import PoolTimeout

from domain.access.role import Role
from domain.billing.account import Account
from domain.core.aggregate import Cause
from domain.core.errors import VersionConflict
from domain.core.event_log import EventLog
from infrastructure.postgres import store
from infrastructure.postgres.event_recorder import is_disk_full
from infrastructure.postgres.store import connect, open_log, open_pool, scalar
from infrastructure.settings import Settings
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID
from tests.polling import eventually

pytestmark = pytest.mark.usefixtures("unseeded")


@pytest.fixture(autouse=True)
def cause() -> Iterator[Cause]:
    with command() as cause:
        yield cause


def opened(account_id: UUID = ACCOUNT_ID) -> Account:
    return Account.open(account_id, Role.OWNER, "UTC")


def credits_of(log: EventLog) -> list[str]:
    events = log.events.get(ACCOUNT_ID)
    return [event.reference for event in events if isinstance(event, Account.CreditGranted)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ecolink_events SET state = state",
        "DELETE FROM ecolink_events",
        "TRUNCATE ecolink_events",
        "DROP TABLE ecolink_events",
        "UPDATE ecolink_snapshots SET state = state",
        "DELETE FROM ecolink_tracking",
    ],
)
def test_recorded_events_cannot_be_changed(
    log: EventLog, settings: Settings, statement: str
) -> None:
    log.commit(opened())
    with connect(settings) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement.encode())
    assert log.recorder.max_notification_id() == 1


def test_services_may_lock_the_log_to_keep_it_in_order(settings: Settings) -> None:
    with connect(settings, autocommit=False) as connection:
        connection.execute("LOCK TABLE ecolink_events IN EXCLUSIVE MODE")


def test_a_store_that_skips_the_lock_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGRES_ENABLE_DB_FUNCTIONS", "y")
    with pytest.raises(RuntimeError, match="POSTGRES_ENABLE_DB_FUNCTIONS"):
        open_log(settings)


def test_a_server_that_acknowledges_before_it_is_durable_is_refused(settings: Settings) -> None:
    assert settings.owner_database_url is not None
    name = conninfo_to_dict(settings.owner_database_url)["dbname"]
    with psycopg.connect(settings.owner_database_url, autocommit=True) as owner:
        owner.execute(
            sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(
                sql.Identifier(str(name))
            )
        )
    with pytest.raises(RuntimeError, match="synchronous_commit"):
        open_log(settings)


def test_the_port_of_the_embedded_server_does_not_replace_that_of_the_url(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECOLINK_POSTGRES_PORT", "0")
    with open_log(settings) as log:
        log.commit(opened())


def test_of_two_writers_of_one_version_one_gets_a_conflict(log: EventLog) -> None:
    log.commit(opened())
    together = threading.Barrier(2)
    outcomes: dict[str, type[Exception] | None] = {}

    def write(name: str) -> None:
        with command(name):
            account = log.load(Account, ACCOUNT_ID)
            account.grant_credit(100, name)
            together.wait()
            try:
                log.commit(account)
                outcomes[name] = None
            except VersionConflict as error:
                outcomes[name] = type(error)

    writers = [threading.Thread(target=write, args=[name]) for name in ("one", "two")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    (winner,) = [name for name, outcome in outcomes.items() if outcome is None]
    assert list(outcomes.values()).count(VersionConflict) == 1
    assert credits_of(log) == [winner]


def test_an_event_whose_predecessor_the_log_lacks_is_a_conflict(log: EventLog) -> None:
    """A failover without a synchronous standby may lose events on which a process builds."""
    account = opened()
    account.grant_credit(100, "lost")
    lost = len(account.collect_events())
    account.grant_credit(100, "next")
    assert account.version == lost + 1
    with pytest.raises(VersionConflict):
        log.commit(account, opened(uuid4()))
    assert log.recorder.max_notification_id() is None


def test_a_conflicting_use_case_is_retried(log: EventLog) -> None:
    log.commit(opened())
    attempts = 0

    def grant() -> None:
        nonlocal attempts
        account = log.load(Account, ACCOUNT_ID)
        if attempts == 0:
            with command("another"):
                rival = log.load(Account, ACCOUNT_ID)
                rival.grant_credit(1, "rival")
                log.commit(rival)
        attempts += 1
        account.grant_credit(1, "mine")
        log.commit(account)

    log.retrying(grant)
    assert attempts == 2
    assert credits_of(log) == ["rival", "mine"]


def test_a_save_whose_acknowledgement_was_lost_is_a_success(log: EventLog) -> None:
    log.commit(opened())
    lost, again = log.load(Account, ACCOUNT_ID), log.load(Account, ACCOUNT_ID)
    for account in (lost, again):
        account.grant_credit(100, "invoice")
    log.commit(lost, tracking=Tracking("reader", 1))
    log.commit(again, tracking=Tracking("reader", 1))
    assert credits_of(log) == ["invoice"]


def test_another_commands_event_is_a_conflict(log: EventLog) -> None:
    log.commit(opened())
    first, second = log.load(Account, ACCOUNT_ID), log.load(Account, ACCOUNT_ID)
    with command("one"):
        first.grant_credit(100, "invoice")
        log.commit(first)
    with command("two"):
        second.grant_credit(100, "invoice")
        with pytest.raises(VersionConflict):
            log.commit(second)


def test_a_conflict_on_one_aggregate_saves_nothing_of_the_others(log: EventLog) -> None:
    log.commit(opened())
    late = log.load(Account, ACCOUNT_ID)
    with command("first"):
        first = log.load(Account, ACCOUNT_ID)
        first.grant_credit(100, "first")
        log.commit(first)
    other = opened(uuid4())
    late.grant_credit(100, "late")
    with pytest.raises(VersionConflict):
        log.commit(other, late)
    assert log.find(Account, other.id) is None


def test_events_and_position_are_saved_together(log: EventLog) -> None:
    log.commit(opened(), tracking=Tracking("reader", 7))
    assert log.process_recorder.max_tracking_id("reader") == 7


def test_a_save_of_a_position_alone_does_not_wait_for_other_writers(
    log: EventLog, settings: Settings
) -> None:
    with connect(settings, autocommit=False) as writer:
        writer.execute("LOCK TABLE ecolink_events IN EXCLUSIVE MODE")
        # The save would fail after the lock timeout of 30 s.
        log.process_recorder.insert_tracking(Tracking("reader", 7))
    assert log.process_recorder.max_tracking_id("reader") == 7


def test_a_position_that_was_reached_before_saves_no_event(log: EventLog) -> None:
    log.commit(opened(), tracking=Tracking("reader", 7))
    for position in (6, 7):
        other = opened(uuid4())
        with pytest.raises(VersionConflict):
            log.commit(other, tracking=Tracking("reader", position))
        assert log.find(Account, other.id) is None
    assert log.process_recorder.max_tracking_id("reader") == 7


def test_a_caching_log_reads_events_of_others(log: EventLog, settings: Settings) -> None:
    log.commit(opened())
    cached = open_log(settings, cached=10)
    try:
        assert cached.load(Account, ACCOUNT_ID).balance_micros == 0
        account = log.load(Account, ACCOUNT_ID)
        account.grant_credit(100, "elsewhere")
        log.commit(account)
        assert cached.load(Account, ACCOUNT_ID).balance_micros == 100
        cached.load(Account, ACCOUNT_ID).grant_credit(5, "never saved")
        assert cached.load(Account, ACCOUNT_ID).balance_micros == 100
    finally:
        cached.close()


def test_a_full_disk_is_an_error_at_once(log: EventLog, settings: Settings) -> None:
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url, autocommit=True) as connection:
        connection.execute("CREATE SEQUENCE attempts; GRANT USAGE ON attempts TO PUBLIC")
        connection.execute(
            "CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ "
            "BEGIN PERFORM nextval('attempts'); "
            "RAISE EXCEPTION 'No space left on device' USING ERRCODE = 'disk_full'; END $$"
        )
        connection.execute(
            "CREATE TRIGGER full_disk BEFORE INSERT ON ecolink_events "
            "FOR EACH STATEMENT EXECUTE FUNCTION no_space()"
        )
        with pytest.raises(OperationalError, match="No space left") as raised:
            log.commit(opened())
        assert is_disk_full(raised.value)
        assert connection.execute("SELECT last_value FROM attempts").fetchone() == (1,)
        connection.execute("DROP TRIGGER full_disk ON ecolink_events")
    log.commit(opened())


def test_a_pool_replaces_a_connection_that_the_server_closed_while_it_was_idle(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_pool(settings, max_size=1) as pool:
        pool.wait()  # else the pool may open a second connection for the first use
        with pool.connection() as first:
            pid = first.info.backend_pid
        with connect(settings) as other:
            scalar(other, "SELECT pg_terminate_backend(%s, 10000)", [pid])
        monkeypatch.setattr(store, "UNCHECKED_SECONDS", 0.0)
        with pool.connection() as second:
            assert scalar(second, "SELECT pg_backend_pid()") != pid


def test_a_pool_replaces_a_connection_that_failed_a_moment_after_its_last_use(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "UNCHECKED_SECONDS", 3600.0)
    with open_pool(settings, max_size=1) as pool:
        pool.wait()  # else the pool may open a second connection for the first use
        with pool.connection() as first:
            pid = first.info.backend_pid
        with connect(settings) as other:
            scalar(other, "SELECT pg_terminate_backend(%s, 10000)", [pid])
        with pytest.raises(psycopg.OperationalError), pool.connection() as unchecked:
            scalar(unchecked, "SELECT 1")
        with pool.connection() as second:
            assert scalar(second, "SELECT pg_backend_pid()") != pid


def test_uses_one_after_another_need_one_connection(settings: Settings) -> None:
    with open_pool(settings) as pool:
        pool.wait()
        for _ in range(100):
            with pool.connection() as connection:
                scalar(connection, "SELECT 1")
        assert pool.get_stats()["pool_size"] == 1


def test_short_uses_at_once_take_turns_on_one_connection(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "TURN_SECONDS", 60.0)
    with open_pool(settings) as pool, ThreadPoolExecutor(8) as threads:
        pool.wait()

        def use(_: int) -> int:
            with pool.connection() as connection:
                return scalar(connection, "SELECT pg_backend_pid()")

        assert len(set(threads.map(use, range(100)))) == 1


def test_a_pool_grows_while_needed_and_shrinks_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "IDLE_SECONDS", 0.1)
    with open_pool(settings) as pool, open_log(settings, pool=pool) as log:
        with pool.connection(), pool.connection():
            assert log.find(Account, ACCOUNT_ID) is None
            assert pool.get_stats()["pool_size"] == 3

        def shrunk() -> bool:
            with pool.connection():
                return pool.get_stats()["pool_size"] == 1

        eventually(shrunk)


def test_uses_of_rows_leave_connections_for_events(settings: Settings) -> None:
    with open_pool(settings, max_size=2) as pool, open_log(settings, pool=pool) as log:
        with pool.connection(), pool.connection():
            with pytest.raises(PoolTimeout), pool.connection(timeout=0.01):
                pass
            assert log.find(Account, ACCOUNT_ID) is None
        with pool.connection(), pool.connection():
            pass
