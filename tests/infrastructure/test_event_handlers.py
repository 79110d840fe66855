"""Event handlers: order, positions, retries and parking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID, uuid4

import psycopg
import pytest
from eventsourcing.persistence import OperationalError
from nats.errors import ConnectionClosedError
from obstore.exceptions import GenericError
from psycopg_pool import ConnectionPool

from domain.access.role import Role
from domain.billing.account import Account
from domain.core.aggregate import Aggregate, Event
from domain.core.event_log import EventLog
from infrastructure import event_handlers
from infrastructure.consumer import OrderedConsumer
from infrastructure.event_handlers import (
    ATTEMPTS,
    BEHIND_PARKED,
    CONFLICT_ATTEMPTS,
    HandlerEffect,
    parked_events,
    request_replay,
)
from infrastructure.store import Connection
from tests.builders.commands import FixedClock, command
from tests.builders.examples import ACCOUNT_ID
from tests.logs import grow, ids

OTHER_ID = UUID("44444444-4444-5444-8444-444444444444")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_handlers, "ATTEMPT_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(event_handlers, "CONFLICT_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(event_handlers, "STORE_PAUSE_SECONDS", 0.0)


class Mirror:
    """A handler that grants a mirror account the same credit. Tests can make it fail."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.failing: Callable[[Event], Exception | None] = lambda _: None
        self.before_commit: Callable[[], None] = lambda: None
        self.calls: list[str] = []

    def handle(self, event: Event) -> Sequence[Aggregate]:
        mirrored = isinstance(event, Account.CreditGranted) and event.actor == "account:test"
        if not mirrored:
            return []
        self.calls.append(event.event_id)
        error = self.failing(event)
        if error is not None:
            raise error
        mirror = self._log.load(Account, MIRROR_ID)
        mirror.grant_credit(event.amount_micros, event.event_id)
        self.before_commit()
        return [mirror]


MIRROR_ID = uuid4()


@pytest.fixture
def mirror(log: EventLog) -> Mirror:
    with command("mirror"):
        log.commit(Account.open(MIRROR_ID, Role.USER, "UTC"))
    return Mirror(log)


@pytest.fixture
def effect(log: EventLog, mirror: Mirror, pool: ConnectionPool[Connection]) -> HandlerEffect:
    return HandlerEffect("mirror", log, FixedClock(), mirror.handle, pool.connection)


@pytest.fixture
def consumer(log: EventLog, effect: HandlerEffect) -> OrderedConsumer:
    return OrderedConsumer(effect, log)


def mirrored(log: EventLog) -> list[str]:
    """The mirror's credits in order."""
    events = log.events.get(MIRROR_ID)
    return [event.reference for event in events if isinstance(event, Account.CreditGranted)]


def credit_events(*account_ids: UUID, count: int = 2) -> list[str]:
    """Public ids of the first credits of some accounts."""
    return [f"{id}:{version}" for id in account_ids for version in range(2, 2 + count)]


def parked(pool: ConnectionPool[Connection]) -> list[int]:
    with pool.connection() as connection:
        return [row["notification_id"] for row in parked_events(connection)]


def fail_for(account_id: UUID) -> Callable[[Event], Exception | None]:
    return lambda event: ValueError("poison") if event.account_id == account_id else None


def test_an_answer_and_its_position_are_saved_together(
    log: EventLog, consumer: OrderedConsumer
) -> None:
    grow(log, 2)
    consumer.catch_up()
    (answer,) = [event for event in log.events.get(MIRROR_ID) if event.originator_version == 2]
    assert isinstance(answer, Account.CreditGranted)
    assert (answer.actor, answer.causation_id) == ("service:mirror", f"{ACCOUNT_ID}:2")
    assert consumer.effect.position() == ids(log)[-1]


def test_events_that_need_no_answer_move_the_position(
    log: EventLog, consumer: OrderedConsumer, mirror: Mirror
) -> None:
    grow(log, 1)
    consumer.catch_up()
    assert mirror.calls == []
    assert consumer.effect.position() == ids(log)[-1]


def test_no_event_is_processed_twice(log: EventLog, consumer: OrderedConsumer) -> None:
    grow(log, 5)
    consumer.catch_up()
    consumer.catch_up()
    assert mirrored(log) == credit_events(ACCOUNT_ID, count=4)


def test_a_conflicting_handler_is_retried(
    log: EventLog, consumer: OrderedConsumer, mirror: Mirror, pool: ConnectionPool[Connection]
) -> None:
    grow(log, 2)

    def rival() -> None:
        if len(mirror.calls) == 1:
            with command("rival"):
                account = log.load(Account, MIRROR_ID)
                account.grant_credit(1, "rival")
                log.commit(account)

    mirror.before_commit = rival
    consumer.catch_up()
    assert mirrored(log)[:2] == ["rival", f"{ACCOUNT_ID}:2"]
    assert parked(pool) == []


@pytest.mark.parametrize("races", [CONFLICT_ATTEMPTS - 1, CONFLICT_ATTEMPTS])
def test_only_many_conflicts_park_an_event(
    log: EventLog,
    consumer: OrderedConsumer,
    mirror: Mirror,
    pool: ConnectionPool[Connection],
    races: int,
) -> None:
    grow(log, 2)

    def rival() -> None:
        if len(mirror.calls) <= races:
            with command(f"rival {len(mirror.calls)}"):
                account = log.load(Account, MIRROR_ID)
                account.grant_credit(1, f"rival {len(mirror.calls)}")
                log.commit(account)

    mirror.before_commit = rival
    consumer.catch_up()
    assert len(parked(pool)) == (races == CONFLICT_ATTEMPTS)
    assert (f"{ACCOUNT_ID}:2" in mirrored(log)) == (races < CONFLICT_ATTEMPTS)


def test_an_event_processed_elsewhere_is_skipped(
    log: EventLog,
    consumer: OrderedConsumer,
    mirror: Mirror,
    effect: HandlerEffect,
    pool: ConnectionPool[Connection],
) -> None:
    grow(log, 3)
    twin = Mirror(log)
    rival = OrderedConsumer(
        HandlerEffect(effect.name, log, FixedClock(), twin.handle, pool.connection), log
    )

    def overtake() -> None:
        if not twin.calls:
            rival.catch_up()

    mirror.before_commit = overtake
    consumer.catch_up()
    assert mirrored(log) == credit_events(ACCOUNT_ID)
    assert parked(pool) == []


def test_a_failing_handler_is_retried_before_its_event_is_parked(
    log: EventLog, consumer: OrderedConsumer, mirror: Mirror, pool: ConnectionPool[Connection]
) -> None:
    grow(log, 2)
    mirror.failing = lambda _: ValueError("not yet") if len(mirror.calls) < ATTEMPTS else None
    consumer.catch_up()
    assert mirrored(log) == [f"{ACCOUNT_ID}:2"]
    assert parked(pool) == []


def test_a_parked_event_blocks_only_its_aggregate(
    log: EventLog, consumer: OrderedConsumer, mirror: Mirror, pool: ConnectionPool[Connection]
) -> None:
    grow(log, 2)
    grow(log, 3, OTHER_ID)
    grow(log, 1)
    mirror.failing = lambda event: (
        ValueError("poison") if event.event_id == f"{ACCOUNT_ID}:2" else None
    )
    consumer.catch_up()
    assert mirrored(log) == credit_events(OTHER_ID)
    with pool.connection() as connection:
        rows = parked_events(connection)
    assert [row["error"] for row in rows] == ["ValueError: poison", BEHIND_PARKED]
    assert {row["originator_id"] for row in rows} == {ACCOUNT_ID}
    assert consumer.effect.position() == ids(log)[-1]


def test_later_batches_respect_parked_aggregates(
    log: EventLog, consumer: OrderedConsumer, mirror: Mirror, pool: ConnectionPool[Connection]
) -> None:
    grow(log, 2)
    mirror.failing = fail_for(ACCOUNT_ID)
    consumer.catch_up()
    mirror.failing = lambda _: None
    grow(log, 1)
    consumer.catch_up()
    assert mirrored(log) == []
    assert len(parked(pool)) == 2


def test_a_replay_runs_in_order_and_unparks(
    log: EventLog,
    consumer: OrderedConsumer,
    effect: HandlerEffect,
    mirror: Mirror,
    pool: ConnectionPool[Connection],
) -> None:
    grow(log, 4)
    mirror.failing = fail_for(ACCOUNT_ID)
    consumer.catch_up()
    mirror.failing = lambda _: None
    with pool.connection() as connection:
        for position in reversed(parked(pool)):
            assert request_replay(connection, "mirror", position) is not None
    assert effect.replay_requested() == 3
    assert mirrored(log) == credit_events(ACCOUNT_ID, count=3)
    assert parked(pool) == []
    grow(log, 1)
    consumer.catch_up()
    assert mirrored(log) == credit_events(ACCOUNT_ID, count=4), "the aggregate is free again"


def test_a_replay_of_any_event_frees_its_aggregate(
    log: EventLog,
    consumer: OrderedConsumer,
    effect: HandlerEffect,
    mirror: Mirror,
    pool: ConnectionPool[Connection],
) -> None:
    grow(log, 3)
    mirror.failing = fail_for(ACCOUNT_ID)
    consumer.catch_up()
    mirror.failing = lambda _: None
    _, second = parked(pool)
    with pool.connection() as connection:
        assert request_replay(connection, "mirror", 10_000) is None
        row = request_replay(connection, "mirror", second)
    assert row is not None
    assert (row["notification_id"], row["replay"]) == (second, True)
    grow(log, 1)
    consumer.catch_up()
    assert effect.replay_requested() == 3, "what came meanwhile is not held up"
    assert mirrored(log) == credit_events(ACCOUNT_ID, count=3)


def test_a_replay_during_a_batch_frees_its_aggregate(
    log: EventLog,
    consumer: OrderedConsumer,
    effect: HandlerEffect,
    mirror: Mirror,
    pool: ConnectionPool[Connection],
) -> None:
    grow(log, 2)
    mirror.failing = fail_for(ACCOUNT_ID)
    consumer.catch_up()
    mirror.failing = lambda _: None
    grow(log, 2, OTHER_ID)
    grow(log, 1)

    def free() -> None:
        mirror.before_commit = lambda: None
        with pool.connection() as connection:
            request_replay(connection, "mirror", parked(pool)[0])
        assert effect.replay_requested() == 1

    mirror.before_commit = free
    consumer.catch_up()
    assert sorted(mirrored(log)) == sorted(
        [*credit_events(ACCOUNT_ID), *credit_events(OTHER_ID, count=1)]
    )
    assert parked(pool) == []


@pytest.mark.parametrize("error", [GenericError("the store is away"), OSError("no room is left")])
def test_events_wait_for_an_unreachable_store(
    log: EventLog,
    consumer: OrderedConsumer,
    effect: HandlerEffect,
    mirror: Mirror,
    pool: ConnectionPool[Connection],
    error: Exception,
) -> None:
    """Its aggregate waits without an operator and does not block others."""
    grow(log, 2)
    grow(log, 2, OTHER_ID)
    mirror.failing = lambda event: error if event.account_id == ACCOUNT_ID else None
    consumer.catch_up()
    assert mirrored(log) == credit_events(OTHER_ID, count=1)
    assert effect.replay_requested() == 0
    grow(log, 1)
    consumer.catch_up()
    mirror.failing = lambda _: None
    assert effect.replay_requested() == 2
    assert mirrored(log)[1:] == credit_events(ACCOUNT_ID)
    assert parked(pool) == []


def test_a_failed_replay_stays_parked(
    log: EventLog,
    consumer: OrderedConsumer,
    effect: HandlerEffect,
    mirror: Mirror,
    pool: ConnectionPool[Connection],
) -> None:
    grow(log, 3)
    grow(log, 3, OTHER_ID)
    mirror.failing = lambda _: ValueError("poison")
    consumer.catch_up()
    mirror.failing = fail_for(ACCOUNT_ID)
    with pool.connection() as connection:
        for position in parked(pool):
            request_replay(connection, "mirror", position)
    assert effect.replay_requested() == 2
    assert mirrored(log) == credit_events(OTHER_ID)
    assert len(parked(pool)) == 2
    assert effect.replay_requested() == 0, "an operator has to ask again"


@pytest.mark.parametrize(
    "outage",
    [
        OperationalError("the store is away"),
        psycopg.OperationalError("the connection is lost"),
        psycopg.InterfaceError("the connection is closed"),
        ConnectionClosedError(),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__module__.split(".")[0] + "." + type(error).__name__,
)
def test_an_outage_parks_nothing_and_skips_nothing(
    log: EventLog,
    consumer: OrderedConsumer,
    mirror: Mirror,
    pool: ConnectionPool[Connection],
    outage: Exception,
) -> None:
    grow(log, 3)
    mirror.failing = lambda event: outage if event.event_id == f"{ACCOUNT_ID}:3" else None
    with pytest.raises(type(outage)):
        consumer.catch_up()
    assert mirrored(log) == [f"{ACCOUNT_ID}:2"]
    assert parked(pool) == []
    mirror.failing = lambda _: None
    consumer.catch_up()
    assert mirrored(log) == credit_events(ACCOUNT_ID)
