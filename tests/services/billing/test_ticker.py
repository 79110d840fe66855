"""The ticker on real PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from psycopg_pool import ConnectionPool

from domain.billing.meter import Meter
from domain.core.event_log import EventLog
from domain.jobs.job import SegmentEnd
from infrastructure.clock import FastClock
from infrastructure.consumer import OrderedConsumer
from infrastructure.measurements import add_evidence
from infrastructure.store import Connection, database_time
from projections import ACCOUNTS, OPEN_METERS
from projections.projection import ProjectionEffect
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
