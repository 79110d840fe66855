"""The ticker on real PostgreSQL."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from eventsourcing.persistence import IntegrityError, OperationalError, StoredEvent
from psycopg_pool import ConnectionPool

from domain.access.role import Role
from domain.billing import meter as meter_module
from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.core.aggregate import Event
from domain.core.event_log import EventLog
from domain.jobs.job import Job, SegmentEnd
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.postgres.store import Connection, database_time, open_log
from infrastructure.process.clock import FastClock
from infrastructure.settings import Settings
from infrastructure.training.measurements import add_evidence
from projections import ACCOUNTS, OPEN_METERS
from projections.projection import ProjectionEffect
from services.billing import open_accounts, settlement
from services.billing import ticker as ticker_module
from services.billing.settlement import open_meter as open_meter_of
from services.billing.ticker import Ticker
from tests.builders.commands import NOW, FixedClock, command
from tests.builders.examples import JOB_ID, POLICY
from tests.builders.history import History


class MovableClock(FixedClock):
    """A clock that stands still until the test moves it."""

    def at(self, moment: datetime) -> datetime:
        del moment
        return self.time


@pytest.fixture
def ticker(log: EventLog, pool: ConnectionPool[Connection]) -> Ticker:
    return Ticker(log, FixedClock(), pool, POLICY)


def project(log: EventLog, pool: ConnectionPool[Connection]) -> None:
    for projection in (OPEN_METERS, ACCOUNTS):
        OrderedConsumer(ProjectionEffect(projection, pool.connection), log).catch_up()


def start(
    history: History, pool: ConnectionPool[Connection], ago: timedelta = timedelta(hours=1)
) -> None:
    """Bind the pod some time ago by the database's clock."""
    with pool.connection() as connection:
        now = database_time(connection)
    with history.changing_job() as job:
        job.start_pod(1, "pod", now - ago)
    project(history.log, pool)


def allocate(history: History, balance_micros: int) -> None:
    """Allocate GPUs to a job of an account with a balance."""
    history.open_account(balance_micros)
    history.open_pool()
    history.approve_job()
    history.allocate_segment(1)


def open_meter(history: History) -> None:
    with command("open"):
        history.log.commit(Meter.open(history.account_id, history.job_id, 1, 3_600_000))


def show(pool: ConnectionPool[Connection], elapsed_seconds: float, job_id: UUID = JOB_ID) -> None:
    with pool.connection() as connection:
        add_evidence(connection, job_id, 1, elapsed_seconds)


def minutes(history: History) -> list[tuple[int, int]]:
    return [
        (event.from_seconds, event.to_seconds)
        for event in history.log.events.get(history.meter(1).id)
        if isinstance(event, Meter.MinuteMetered)
    ]


def test_a_restarted_ticker_posts_missing_minutes_once(
    pool: ConnectionPool[Connection], history: History, ticker: Ticker
) -> None:
    history.run_until("leased")
    start(history, pool)
    show(pool, 200.9)
    assert ticker.tick() == 1
    assert minutes(history) == [(0, 60), (60, 120), (120, 180)]
    assert history.meter(1).paid_seconds == 500
    assert ticker.tick() == 0
    assert len(minutes(history)) == 3


@pytest.mark.parametrize(
    ("bound_seconds", "shown_seconds", "billed"),
    [(3600, None, []), (70, 10_000, [(0, 60)])],
    ids=["no evidence", "a trainer's clock jump"],
)
def test_billed_time_is_limited(
    pool: ConnectionPool[Connection],
    history: History,
    ticker: Ticker,
    bound_seconds: int,
    shown_seconds: int | None,
    billed: list[tuple[int, int]],
) -> None:
    """By the evidence and by the database's time."""
    history.run_until("leased")
    start(history, pool, timedelta(seconds=bound_seconds))
    if shown_seconds is not None:
        show(pool, shown_seconds)
    ticker.tick()
    assert minutes(history) == billed


@pytest.mark.parametrize("bound_at", [None, datetime(2999, 1, 1, tzinfo=UTC)])
def test_a_segment_without_a_pod_has_run_0_seconds(
    pool: ConnectionPool[Connection], history: History, ticker: Ticker, bound_at: datetime | None
) -> None:
    history.run_until("allocated")
    open_meter(history)
    project(history.log, pool)
    with pool.connection() as connection:
        connection.execute("UPDATE open_meters SET bound_at = %s", [bound_at])
    show(pool, 100)
    ticker.tick()
    assert minutes(history) == []
    assert history.meter(1).paid_seconds == 300, "a full lease, not a second less"


def test_a_waiting_segment_gets_its_lease_after_a_top_up(
    pool: ConnectionPool[Connection], history: History, ticker: Ticker
) -> None:
    allocate(history, 1)
    open_meter(history)
    project(history.log, pool)
    ticker.tick()
    assert history.meter(1).paid_seconds == 0
    history.top_up(1_000_000, "top-up")
    ticker.tick()
    assert history.meter(1).paid_seconds == 300


def test_a_refused_segment_never_gets_a_lease(
    pool: ConnectionPool[Connection], history: History, ticker: Ticker
) -> None:
    allocate(history, 1)
    history.refuse_lease(1)
    project(history.log, pool)
    history.top_up(1_000_000, "top-up")
    assert ticker.tick() == 0
    assert history.meter(1).paid_seconds == 0


def test_an_account_without_segments_is_not_low(
    log: EventLog, pool: ConnectionPool[Connection], history: History, ticker: Ticker
) -> None:
    allocate(history, 400_000)
    history.grant_lease(1)
    start(history, pool)
    assert ticker.tick() == 1
    assert history.account.low
    history.end_segment(1, SegmentEnd.STOPPED, 100)
    project(log, pool)
    assert history.account.low
    assert ticker.tick() == 1
    assert not history.account.low
    assert ticker.tick() == 0, "whether or not the projection knows"
    project(log, pool)
    assert ticker.tick() == 0


def test_time_is_database_time_on_the_platforms_clock(
    log: EventLog, pool: ConnectionPool[Connection], history: History
) -> None:
    """At a speed of 100, 2.5 s of the database are 250 s of segment time."""
    with pool.connection() as connection:
        now = database_time(connection)
    clock = FastClock(100.0, now - timedelta(seconds=10))
    ticker = Ticker(log, clock, pool, POLICY)
    history.run_until("leased")
    with history.changing_job() as job:
        job.start_pod(1, "pod", clock.at(now - timedelta(seconds=2.5)))
    project(log, pool)
    show(pool, 200)
    ticker.tick()
    assert minutes(history) == [(0, 60), (60, 120), (120, 180)]


@pytest.mark.full
def test_a_day_of_billing_runs_in_seconds(
    log: EventLog, pool: ConnectionPool[Connection], history: History
) -> None:
    clock = MovableClock()
    ticker = Ticker(log, clock, pool, POLICY)
    day = 24 * 3600
    allocate(history, 2 * day * 1000)
    history.grant_lease(1)
    with history.changing_job() as job:
        job.start_pod(1, "pod", NOW)
    project(log, pool)
    for elapsed in range(240, day + 1, 240):
        clock.time = NOW + timedelta(seconds=elapsed)
        show(pool, elapsed)
        assert ticker.tick() == 1
    assert len(minutes(history)) == 24 * 60
    assert minutes(history)[-1] == (day - 60, day)
    assert history.account.balance_micros == day * 1000
    assert history.account.reserved_micros == 300 * 1000
    last = list(log.events.get(history.meter(1).id))[-1]
    assert last.timestamp == NOW + timedelta(days=1)


def test_a_meter_closed_meanwhile_is_skipped(
    pool: ConnectionPool[Connection], history: History, ticker: Ticker
) -> None:
    history.run_until("leased")
    start(history, pool)
    show(pool, 200)
    with command("close"):
        meter = history.meter(1)
        meter.close(0, 60)
        history.log.commit(meter)
    assert ticker.tick() == 0


def test_a_failing_account_does_not_block_others(
    log: EventLog, pool: ConnectionPool[Connection], ticker: Ticker
) -> None:
    histories = [History(log, UUID(int=number), uuid4()) for number in (1, 2)]
    histories[0].open_pool(2)
    for history in histories:
        history.open_account(1_000_000)
        history.approve_job()
        history.allocate_segment(1)
        history.grant_lease(1)
        start(history, pool)
        show(pool, 100, history.job_id)
    with pool.connection() as connection:
        connection.execute(
            "UPDATE open_meters SET meter_id = gen_random_uuid() WHERE account_id = %s",
            [histories[0].account_id],
        )
    assert ticker.tick() == 1
    assert minutes(histories[1]) == [(0, 60)]


class Fleet:
    """Running segments of several accounts, whose pods started an hour ago."""

    def __init__(self, log: EventLog, pool: ConnectionPool[Connection]) -> None:
        self.log = log
        self.pool = pool
        self.accounts: dict[UUID, list[Meter]] = {}

    def run(self, accounts: int, segments: int) -> None:
        """Open accounts with segments that have a full lease."""
        for _ in range(accounts):
            account_id = uuid4()
            with command("open"):
                account = Account.open(account_id, Role.OWNER, "UTC")
                account.grant_credit(10**9, "first")
                meters = [Meter.open(account_id, uuid4(), 1, 3_600_000) for _ in range(segments)]
                for start in range(0, segments, 100):
                    some = meters[start : start + 100]
                    for each in some:
                        open_meter_of(account, each, POLICY)
                    self.log.commit(account, *some)
            self.accounts[account_id] = meters
        project(self.log, self.pool)
        with self.pool.connection() as connection:
            connection.execute("UPDATE open_meters SET bound_at = now() - interval '1 hour'")

    def show(self, elapsed_seconds: float) -> None:
        """Store evidence of all segments."""
        for meters in self.accounts.values():
            for each in meters:
                show(self.pool, elapsed_seconds, each.job_id)

    def minutes(self, account_id: UUID) -> list[int]:
        """Return the number of billed minutes of each segment, from the log."""
        return [self.log.load(Meter, each.id).minutes for each in self.accounts[account_id]]

    def open_meter(self, account_id: UUID) -> Meter:
        """Save a meter without a lease as another process. Return it."""
        with command(f"open:{uuid4()}"):
            meter = Meter.open(account_id, uuid4(), 1, 3_600_000)
            self.log.commit(meter)
        self.accounts.setdefault(account_id, []).append(meter)
        return meter

    def start_pod(self, meter: Meter) -> None:
        """Save the start of a segment's pod, an hour ago, as another process."""
        with self.pool.connection() as connection:
            bound_at = database_time(connection) - timedelta(hours=1)
        started = Job.PodStarted(
            originator_id=meter.job_id,
            originator_version=1,
            timestamp=NOW,
            account_id=meter.account_id,
            actor="service:launcher",
            command_id=f"start:{uuid4()}",
            segment=1,
            pod="pod",
            bound_at=bound_at,
            host=None,
        )
        self.log.recorder.insert_events([self.log.mapper.to_stored_event(started)])

    def paid_seconds(self, meter: Meter) -> int:
        """Return the length of a meter's lease, from the log."""
        return self.log.load(Meter, meter.id).paid_seconds

    def top_up(self, account_id: UUID) -> None:
        """Save an event of an account as another process."""
        with command(f"top-up:{uuid4()}"):
            account = self.log.load(Account, account_id)
            account.grant_credit(1, str(uuid4()))
            self.log.commit(account)


@pytest.fixture
def fleet(log: EventLog, pool: ConnectionPool[Connection]) -> Fleet:
    return Fleet(log, pool)


@dataclass
class Saves:
    """The saves of a log, of which `before` runs first and can fail."""

    sizes: list[int] = field(default_factory=list)
    before: Callable[[], object] = lambda: None
    after: Callable[[], object] = lambda: None


@pytest.fixture
def saves(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> Saves:
    """Count the saves of the ticker's log."""
    saves, insert = Saves(), log.recorder.insert_events

    def counted(rows: Sequence[StoredEvent], **more: Any) -> Sequence[int] | None:
        before, saves.before = saves.before, lambda: None
        before()
        saves.sizes.append(len(rows))
        ids = insert(rows, **more)
        after, saves.after = saves.after, lambda: None
        after()
        return ids

    monkeypatch.setattr(log.recorder, "insert_events", counted)
    return saves


def raising(error: Exception) -> Callable[[], object]:
    def fail() -> None:
        raise error

    return fail


def test_many_accounts_are_settled_in_one_save(fleet: Fleet, ticker: Ticker, saves: Saves) -> None:
    fleet.run(accounts=20, segments=2)
    fleet.show(61)
    saves.sizes.clear()
    assert ticker.tick() == 20
    assert saves.sizes == [20 * (1 + 2 * 2)], "one settlement, two minutes and two extensions each"
    assert all(fleet.minutes(each) == [1, 1] for each in fleet.accounts)
    assert ticker.tick() == 0


def test_after_a_conflict_accounts_are_settled_one_by_one(
    fleet: Fleet, ticker: Ticker, saves: Saves
) -> None:
    fleet.run(accounts=3, segments=1)
    fleet.show(61)
    saves.sizes.clear()
    saves.before = lambda: fleet.top_up(list(fleet.accounts)[1])
    assert ticker.tick() == 3
    assert saves.sizes == [1, 9, 3, 3, 3], "the top-up, the save that conflicts, and three accounts"
    assert all(fleet.minutes(each) == [1] for each in fleet.accounts)
    assert ticker.tick() == 0


def test_an_account_that_cannot_be_saved_does_not_block_others(
    fleet: Fleet, ticker: Ticker, saves: Saves, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.run(accounts=3, segments=1)
    bad = list(fleet.accounts)[1]
    fleet.show(61)
    to_row = fleet.log.mapper.to_stored_event

    def mapped(event: Event) -> StoredEvent:
        if event.account_id == bad:
            raise ValueError("a bug")
        return to_row(event)

    monkeypatch.setattr(fleet.log.mapper, "to_stored_event", mapped)
    assert ticker.tick() == 2
    assert [fleet.minutes(each) for each in fleet.accounts] == [[1], [0], [1]]
    monkeypatch.undo()
    assert ticker.tick() == 1
    assert fleet.minutes(bad) == [1]


def test_a_save_has_at_most_500_events(fleet: Fleet, ticker: Ticker, saves: Saves) -> None:
    fleet.run(accounts=3, segments=41)
    fleet.show(241)
    saves.sizes.clear()
    assert ticker.tick() == 3
    each = 1 + 41 * (4 + 1)
    assert saves.sizes == [2 * each, each]


def test_an_account_with_more_events_than_a_save_is_settled_in_one_tick(
    fleet: Fleet, ticker: Ticker, saves: Saves
) -> None:
    fleet.run(accounts=1, segments=250)
    fleet.show(121)
    saves.sizes.clear()
    (account_id,) = fleet.accounts
    assert ticker.tick() == len(saves.sizes) == 2
    assert sum(saves.sizes) == 2 * 250 + 250 + 2
    assert set(fleet.minutes(account_id)) == {2}
    account = fleet.log.load(Account, account_id)
    assert account.reserved_micros == 250 * 300_000 + 250 * 1000 * 1


def test_a_lost_acknowledgement_bills_no_minute_twice(
    fleet: Fleet, ticker: Ticker, saves: Saves
) -> None:
    """The recorder repeats the save, which conflicts with itself."""
    fleet.run(accounts=3, segments=1)
    fleet.show(61)
    saves.sizes.clear()
    saves.after = raising(IntegrityError("the repeated save"))
    assert ticker.tick() == 3
    assert saves.sizes == [9]
    assert all(fleet.minutes(each) == [1] for each in fleet.accounts)
    fleet.show(121)
    assert ticker.tick() == 3
    assert all(fleet.minutes(each) == [2] for each in fleet.accounts)


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "not stored"])
def test_after_a_save_without_an_answer_the_ticker_reads_the_log_again(
    fleet: Fleet, ticker: Ticker, saves: Saves, stored: bool
) -> None:
    fleet.run(accounts=3, segments=1)
    fleet.show(61)
    lost = raising(OperationalError("the connection is lost"))
    if stored:
        saves.after = lost
    else:
        saves.before = lost
    with pytest.raises(OperationalError):
        ticker.tick()
    assert ticker.tick() == (0 if stored else 3)
    assert all(fleet.minutes(each) == [1] for each in fleet.accounts)


def test_the_state_in_memory_follows_the_log(fleet: Fleet, ticker: Ticker, saves: Saves) -> None:
    fleet.run(accounts=2, segments=1)
    changed, other = fleet.accounts
    fleet.show(30)
    assert ticker.tick() == 0
    fleet.top_up(changed)
    fleet.show(61)
    saves.sizes.clear()
    assert ticker.tick() == 2
    assert saves.sizes == [6], "no conflict"
    assert fleet.minutes(changed) == fleet.minutes(other) == [1]


def test_a_meter_opened_or_closed_after_the_start_needs_no_read_model(
    fleet: Fleet, ticker: Ticker
) -> None:
    fleet.run(accounts=1, segments=1)
    (account_id,) = fleet.accounts
    (first,) = fleet.accounts[account_id]
    assert ticker.tick() == 0
    with command("open"):
        account = fleet.log.load(Account, account_id)
        account.settle(captured_micros=0, reserved_micros=-first.close(0, 60)[1])
        second = Meter.open(account_id, uuid4(), 1, 3_600_000)
        fleet.log.commit(first, second, account)
    assert ticker.tick() == 1
    assert fleet.log.load(Meter, second.id).paid_seconds == 300
    assert fleet.log.load(Account, account_id).reserved_micros == 300_000


def test_an_event_that_cannot_be_read_is_not_skipped(
    fleet: Fleet, ticker: Ticker, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.run(accounts=1, segments=1)
    (account_id,) = fleet.accounts
    ticker.tick()
    meters = [fleet.open_meter(account_id) for _ in range(3)]
    read = fleet.log.mapper.to_domain_event

    def reading(row: StoredEvent) -> Any:
        if row.originator_id == meters[1].id:
            raise ValueError("a bug")
        return read(row)

    monkeypatch.setattr(fleet.log.mapper, "to_domain_event", reading)
    for _ in range(2):
        with pytest.raises(ValueError, match="a bug") as caught:
            ticker.tick()
        assert "of the log cannot be read" in caught.value.__notes__[0]
    monkeypatch.undo()
    assert ticker.tick() == 1
    assert [fleet.paid_seconds(each) for each in meters] == [300, 300, 300]


@pytest.mark.parametrize("events", [4, 5, 6])
def test_new_events_are_read_in_pages(
    fleet: Fleet, ticker: Ticker, monkeypatch: pytest.MonkeyPatch, events: int
) -> None:
    monkeypatch.setattr(open_accounts, "PAGE_EVENTS", 2)
    fleet.run(accounts=1, segments=1)
    (account_id,) = fleet.accounts
    ticker.tick()
    meters = [fleet.open_meter(account_id) for _ in range(events)]
    assert ticker.tick() == 1
    assert {fleet.paid_seconds(each) for each in meters} == {300}
    assert ticker.tick() == 0


def test_the_next_accounts_are_settled_during_a_save(
    fleet: Fleet, ticker: Ticker, saves: Saves, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.run(accounts=2, segments=1)
    fleet.show(61)
    monkeypatch.setattr(ticker_module, "MAX_EVENTS", 3)
    settled, during, both = list[UUID](), list[bool](), threading.Event()

    def settle(account: Account, *more: Any) -> None:
        settlement.settle(account, *more)
        settled.append(account.id)
        if len(settled) == 2:
            both.set()

    monkeypatch.setattr(ticker_module, "settle", settle)
    saves.before = lambda: both.wait(60)
    saves.after = lambda: during.append(both.is_set())
    assert ticker.tick() == 2
    assert during == [True]
    assert [fleet.minutes(each) for each in fleet.accounts] == [[1], [1]]


@pytest.mark.parametrize("failing", [1, 2])
def test_after_a_failed_save_each_minute_is_billed_once(
    fleet: Fleet, ticker: Ticker, saves: Saves, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """The settlements of the next save are computed already, and are dropped."""
    fleet.run(accounts=4, segments=1)
    fleet.show(61)
    monkeypatch.setattr(ticker_module, "MAX_EVENTS", 3)
    fail = raising(OperationalError("the connection is lost"))

    def fail_next() -> None:
        saves.before = fail

    saves.before = fail if failing == 1 else fail_next
    with pytest.raises(OperationalError):
        ticker.tick()
    assert ticker.tick() == 5 - failing
    assert [fleet.minutes(each) for each in fleet.accounts] == [[1]] * 4


def test_a_tick_takes_snapshots(
    settings: Settings,
    pool: ConnectionPool[Connection],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(meter_module, "SNAPSHOT_EVENTS", 2)
    with open_log(settings, takes_snapshots=True) as log:
        fleet = Fleet(log, pool)
        fleet.run(accounts=1, segments=1)
        fleet.show(200.9)
        (meter,) = fleet.accounts.popitem()[1]
        assert log.snapshots is not None
        before = len(list(log.snapshots.get(meter.id)))
        assert Ticker(log, FixedClock(), pool, POLICY).tick() == 1
        assert len(list(log.snapshots.get(meter.id))) > before
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == []


def test_a_pod_that_starts_while_another_save_conflicts_is_billed(
    fleet: Fleet, ticker: Ticker, saves: Saves, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settlement of its account is computed already, and is saved after the conflict."""
    fleet.run(accounts=1, segments=1)
    ticker.tick()
    (first,) = fleet.accounts
    fleet.show(61)
    account_id = uuid4()
    with command("open"):
        account = Account.open(account_id, Role.OWNER, "UTC")
        account.grant_credit(10**9, "first")
        fleet.log.commit(account)
    meter = fleet.open_meter(account_id)

    def meanwhile() -> None:
        fleet.top_up(first)
        fleet.start_pod(meter)

    monkeypatch.setattr(ticker_module, "MAX_EVENTS", 3)
    saves.before = meanwhile
    ticker.tick()
    assert fleet.paid_seconds(meter) == 300
    show(fleet.pool, 121, meter.job_id)
    ticker.tick()
    assert fleet.minutes(account_id) == [2]


def test_a_meter_that_opens_while_a_save_conflicts_is_settled_in_the_same_tick(
    fleet: Fleet,
    ticker: Ticker,
    saves: Saves,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fleet.run(accounts=3, segments=1)
    fleet.show(61)

    def meanwhile() -> None:
        for each in fleet.accounts:
            fleet.top_up(each)
            fleet.open_meter(each)

    monkeypatch.setattr(ticker_module, "MAX_EVENTS", 3)
    saves.before = meanwhile
    assert ticker.tick() == 3
    assert all(fleet.minutes(each) == [1, 0] for each in fleet.accounts)
    assert all(fleet.paid_seconds(each) == 300 for _, each in fleet.accounts.values())
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == []


def test_two_tickers_bill_each_minute_once(
    fleet: Fleet, ticker: Ticker, pool: ConnectionPool[Connection], saves: Saves
) -> None:
    """As after a lost leadership, when both have the state in memory. No save conflicts."""
    other = Ticker(fleet.log, FixedClock(), pool, POLICY)
    fleet.run(accounts=3, segments=2)
    saves.sizes.clear()
    for minutes, one in enumerate([ticker, other, ticker, ticker, other], start=1):
        fleet.show(60 * minutes + 1)
        one.tick()
        assert all(fleet.minutes(each) == [minutes] * 2 for each in fleet.accounts)
    assert ticker.tick() == other.tick() == 0
    assert len(saves.sizes) == 5


def test_a_restarted_ticker_continues(
    fleet: Fleet, ticker: Ticker, pool: ConnectionPool[Connection]
) -> None:
    fleet.run(accounts=3, segments=2)
    fleet.show(61)
    assert ticker.tick() == 3
    restarted = Ticker(fleet.log, FixedClock(), pool, POLICY)
    assert restarted.tick() == 0
    fleet.show(121)
    assert restarted.tick() == 3
    assert all(fleet.minutes(each) == [2, 2] for each in fleet.accounts)


def test_a_time_that_jumps_back_delays_no_bill(
    log: EventLog, pool: ConnectionPool[Connection], fleet: Fleet
) -> None:
    clock = MovableClock()
    ticker = Ticker(log, clock, pool, POLICY)
    fleet.run(accounts=1, segments=1)
    (account_id,) = fleet.accounts
    with pool.connection() as connection:
        connection.execute("UPDATE open_meters SET bound_at = %s", [NOW - timedelta(hours=2)])
    fleet.show(61)
    ticker.tick()
    clock.time = NOW - timedelta(hours=1)
    fleet.show(121)
    assert ticker.tick() == 1
    assert fleet.minutes(account_id) == [2]
