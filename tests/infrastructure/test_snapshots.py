"""Snapshots of accounts and GPU pools, genuine and forged."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from uuid import UUID, uuid4

import psycopg
import pytest

from domain.billing.account import Account
from domain.capacity.gpu_pool import Claim, GpuPool
from domain.core.aggregate import Cause
from domain.core.event_log import EventLog
from infrastructure.postgres.store import open_log
from infrastructure.settings import Settings
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID
from tests.logs import grow, grow_with_an_incomplete_snapshot

pytestmark = pytest.mark.usefixtures("unseeded")

MILLION_DOLLARS = 10**12


@pytest.fixture(autouse=True)
def cause() -> Iterator[Cause]:
    with command() as cause:
        yield cause


@pytest.fixture
def billing(settings: Settings) -> Iterator[EventLog]:
    """The log of billing, which takes snapshots."""
    with open_log(settings, takes_snapshots=True) as opened:
        yield opened


def snapshots_of(log: EventLog) -> list[int]:
    """Versions of an account's valid snapshots."""
    assert log.snapshots is not None
    return [each.originator_version for each in log.snapshots.get(ACCOUNT_ID)]


def as_owner(settings: Settings, statement: str, *values: object) -> None:
    """Change rows as the database's owner."""
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url) as owner:
        assert owner.execute(statement.encode(), values).rowcount == 1


def with_a_million_dollars(account: Account) -> bytes:
    """Return an unsigned snapshot of an account with a forged balance."""
    snapshot = Account.Snapshot.take(account)
    state = json.loads(snapshot.model_dump_json(exclude={"originator_id", "originator_version"}))
    state["state"]["balance_micros"] = MILLION_DOLLARS
    return json.dumps(state).encode()


def insert(settings: Settings, version: int, state: bytes, account_id: UUID = ACCOUNT_ID) -> None:
    as_owner(
        settings,
        "INSERT INTO ecolink_snapshots VALUES (%s, %s, 'AccountSnapshot', %s)",
        *(account_id, version, state),
    )


def test_a_long_account_is_read_from_its_snapshot_and_is_the_same(billing: EventLog) -> None:
    grow(billing, 1001)
    assert snapshots_of(billing) == [1000]
    replayed = None
    for event in billing.events.get(ACCOUNT_ID):
        assert isinstance(event, Account.Event)
        replayed = event.mutate(replayed)
    assert billing.load(Account, ACCOUNT_ID) == replayed


def test_a_snapshot_replaces_the_events_before_it(
    billing: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(billing, 1001)
    read: list[tuple[int | None, int | None]] = []
    select = billing.events.recorder.select_events

    def spy(originator_id: UUID, *, gt: int | None = None, lte: int | None = None, **more: object):
        read.append((gt, lte))
        return select(originator_id, gt=gt, lte=lte, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(billing.events.recorder, "select_events", spy)
    billing.load(Account, ACCOUNT_ID)
    assert read == [(999, 1000), (1000, None)]  # the last event that it folds, and what came since


def test_only_billing_takes_snapshots(log: EventLog, billing: EventLog) -> None:
    grow(log, 1001)
    assert snapshots_of(log) == []
    grow(billing, 1000)
    assert snapshots_of(log) == [2001]


def test_a_save_that_passes_the_interval_takes_a_snapshot(billing: EventLog) -> None:
    grow(billing, 999)
    grow(billing, 3)
    assert snapshots_of(billing) == [1002]


def test_a_snapshot_that_fails_neither_fails_the_save_nor_skips_the_other_snapshots(
    billing: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_id, take = uuid4(), Account.Snapshot.take

    def take_one(aggregate: Account) -> Account.Snapshot:
        if aggregate.id == other_id:
            raise ValueError("no state")
        return take(aggregate)

    grow(billing, 999)
    grow(billing, 999, other_id)
    monkeypatch.setattr(Account.Snapshot, "take", take_one)
    both = [billing.load(Account, each) for each in (other_id, ACCOUNT_ID)]
    for each in both:
        each.grant_credit(1, "last")
    billing.commit(*both)
    assert billing.load(Account, other_id).version == 1000
    assert snapshots_of(billing) == [1000]


def claims_of(billing: EventLog, count: int) -> GpuPool:
    """Queue claims in a new pool, of which the first half get their GPUs."""
    pool = GpuPool.open("local", "cpu")
    pool.change_capacity(count // 2)
    billing.commit(pool)
    for n in range(count):
        pool.request(Claim(ACCOUNT_ID, UUID(int=n), 1, 1))
        if (claim := pool.next_fitting()) is not None:
            pool.allocate(claim)
        if len(pool.pending_events) >= 400:
            billing.commit(pool)
    billing.commit(pool)
    return pool


def test_a_pool_is_loaded_from_its_snapshot_and_is_the_same(billing: EventLog) -> None:
    pool = claims_of(billing, 800)
    assert billing.snapshots is not None
    (snapshot,) = billing.snapshots.get(pool.id)
    assert snapshot.originator_version >= 1000
    assert billing.load(GpuPool, pool.id) == pool
    assert list(billing.load(GpuPool, pool.id).queue) == list(pool.queue)


def test_a_cached_pool_stays_when_many_aggregates_are_loaded(settings: Settings) -> None:
    with open_log(settings, cached=2) as log:
        pool = claims_of(log, 4)
        log.load(GpuPool, pool.id)
        for _ in range(3):
            id = uuid4()
            grow(log, 1, id)
            log.load(Account, id)
        cache = log.repository.cache
        assert cache is not None
        assert cache.get(pool.id) == pool
        assert log.load(GpuPool, pool.id) is not cache.get(pool.id)


def test_without_the_secret_an_account_is_loaded_from_its_events(
    settings: Settings, billing: EventLog
) -> None:
    grow(billing, 1001)
    with open_log(settings.model_copy(update={"snapshot_secret": None})) as log:
        assert log.snapshots is None
        assert log.load(Account, ACCOUNT_ID) == billing.load(Account, ACCOUNT_ID)


def test_a_forged_snapshot_changes_no_balance_and_is_reported_once(
    log: EventLog, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    grow(log, 3)
    account = log.load(Account, ACCOUNT_ID)
    insert(settings, 3, with_a_million_dollars(account))
    for _ in range(2):
        assert log.load(Account, ACCOUNT_ID) == account
    (record,) = [each for each in caplog.records if each.levelno == logging.CRITICAL]
    assert isinstance(record.args, tuple)
    assert record.args[:2] == (ACCOUNT_ID, 3)


def test_a_snapshot_without_a_new_field_is_not_used_and_reported_once(
    billing: EventLog, caplog: pytest.LogCaptureFixture
) -> None:
    grow_with_an_incomplete_snapshot(billing)
    for _ in range(2):
        assert billing.load(Account, ACCOUNT_ID).version == 1001
    assert snapshots_of(billing) == []
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert "is outdated" in record.getMessage()


@pytest.mark.parametrize("state", [b"", b"nonsense", b"{}", b"\xff"])
def test_an_unreadable_snapshot_is_not_used(
    log: EventLog, settings: Settings, state: bytes
) -> None:
    grow(log, 3)
    account = log.load(Account, ACCOUNT_ID)
    insert(settings, 3, state)
    assert log.load(Account, ACCOUNT_ID) == account


def test_the_genuine_snapshot_before_a_forged_one_is_used(
    billing: EventLog, settings: Settings
) -> None:
    grow(billing, 1001)
    account = billing.load(Account, ACCOUNT_ID)
    insert(settings, 9999, with_a_million_dollars(account))
    assert billing.load(Account, ACCOUNT_ID) == account
    assert snapshots_of(billing) == [1000]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("snapshot", '"{}"'),
        ("last_event_sha256", f'"{"0" * 64}"'),
        ("signature", f'"{"0" * 64}"'),
    ],
)
def test_a_changed_snapshot_is_not_used(
    billing: EventLog, settings: Settings, field: str, value: str
) -> None:
    grow(billing, 1001)
    account = billing.load(Account, ACCOUNT_ID)
    as_owner(
        settings,
        "UPDATE ecolink_snapshots SET state = convert_to(jsonb_set("
        "convert_from(state, 'UTF8')::jsonb, %s, %s::jsonb)::text, 'UTF8')",
        *([field], value),
    )
    assert snapshots_of(billing) == []
    assert billing.load(Account, ACCOUNT_ID) == account


def test_a_snapshot_of_another_account_is_not_used(billing: EventLog, settings: Settings) -> None:
    poor = uuid4()
    grow(billing, 1001)
    grow(billing, 1001, poor)
    account = billing.load(Account, poor)
    as_owner(
        settings,
        "UPDATE ecolink_snapshots SET state = (SELECT state FROM ecolink_snapshots "
        "WHERE originator_id = %s) WHERE originator_id = %s",
        *(ACCOUNT_ID, poor),
    )
    assert billing.load(Account, poor) == account
    assert billing.snapshots is not None
    assert list(billing.snapshots.get(poor)) == []


def test_a_snapshot_ahead_of_the_log_is_not_used(billing: EventLog, settings: Settings) -> None:
    """As after a restore of the events alone, or a rewrite by their owner."""
    grow(billing, 1001)
    as_owner(
        settings,
        "UPDATE ecolink_events SET state = convert_to(jsonb_set("
        "convert_from(state, 'UTF8')::jsonb, '{amount_micros}', '7')::text, 'UTF8') "
        "WHERE originator_id = %s AND originator_version = 1000",
        ACCOUNT_ID,
    )
    assert snapshots_of(billing) == []
    assert billing.load(Account, ACCOUNT_ID).balance_micros == 1006
