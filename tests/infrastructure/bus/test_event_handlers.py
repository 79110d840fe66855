"""Event handlers: order, positions, retries and parking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from eventsourcing.persistence import OperationalError
from nats.errors import ConnectionClosedError
from obstore.exceptions import GenericError
from psycopg_pool import ConnectionPool

from domain import AGGREGATES
from domain.access.role import Role
from domain.billing.account import Account
from domain.core.aggregate import Aggregate, Cause, Event, because, current_cause
from domain.core.errors import UpgradeUnfinished, VersionConflict
from domain.core.event_format import NewerEvent
from domain.core.event_log import EventLog
from infrastructure.bus import event_handlers
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.bus.event_handlers import (
    ATTEMPTS,
    BEHIND_PARKED,
    CONFLICT_ATTEMPTS,
    EventHandlers,
    HandlerEffect,
    parked_events,
    request_replay,
)
from infrastructure.postgres.store import Connection
from infrastructure.process import tracing
from tests.builders.commands import NOW, FixedClock, command
from tests.builders.examples import ACCOUNT_ID
from tests.builders.traces import Collector
from tests.logs import grow, ids

OTHER_ID, MIRROR_ID = uuid4(), uuid4()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_handlers, "ATTEMPT_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(event_handlers, "CONFLICT_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(event_handlers, "WAITING_SECONDS", 0.0)


def test_a_topic_with_two_handlers_is_refused() -> None:
    topic = Account.CreditGranted.TOPIC
    with pytest.raises(ValueError, match=f"Topic '{topic}' has two handlers"):
        EventHandlers({Account.CreditGranted: lambda _: [], Account: lambda _: []})


class Mirror:
    """A service that grants each credit to a mirror account too. Tests can make it fail."""

    def __init__(self, log: EventLog, pool: ConnectionPool[Connection]) -> None:
        self.log, self._pool = log, pool
        self.failing: Callable[[Event], Exception | None] = lambda _: None
        self.before_commit: Callable[[], object] = lambda: None
        self.calls: list[str] = []
        handlers = EventHandlers(dict.fromkeys(AGGREGATES, self._handle))
        self.effect = HandlerEffect("mirror", log, FixedClock(), handlers, pool.connection)
        self.consumer = OrderedConsumer(self.effect, log)

    def _handle(self, event: Event) -> Sequence[Aggregate]:
        if not isinstance(event, Account.CreditGranted) or event.actor != "account:test":
            return []
        self.calls.append(event.event_id)
        error = self.failing(event)
        if error is not None:
            raise error
        mirror = self.log.load(Account, MIRROR_ID)
        mirror.grant_credit(event.amount_micros, event.event_id)
        self.before_commit()
        return [mirror]

    def catch_up(self, failing: Callable[[Event], Exception | None] | None = None) -> None:
        """Handle the new events, and those that they cause. `failing` applies to them only."""
        self.failing = failing or self.failing
        while self.consumer.catch_up():
            pass
        if failing:
            self.failing = lambda _: None

    @property
    def credits(self) -> list[str]:
        """The references of the mirror's credits, in order."""
        events = self.log.events.get(MIRROR_ID)
        return [event.reference for event in events if isinstance(event, Account.CreditGranted)]

    @property
    def parked(self) -> list[int]:
        """The parked events, oldest first."""
        return [row["notification_id"] for row in self.parked_rows()]

    def parked_rows(self) -> list[dict[str, Any]]:
        with self._pool.connection() as connection:
            return parked_events(connection)

    def request_replay(self, *positions: int) -> list[dict[str, Any] | None]:
        with self._pool.connection() as connection:
            return [request_replay(connection, "mirror", each) for each in positions]


@pytest.fixture
def mirror(log: EventLog, pool: ConnectionPool[Connection]) -> Mirror:
    with command("mirror"):
        log.commit(Account.open(MIRROR_ID, Role.OWNER, "UTC"))
    return Mirror(log, pool)


def credit_events(account_id: UUID, count: int = 2) -> list[str]:
    """Return the ids of an account's first credits."""
    return [f"{account_id}:{version}" for version in range(2, 2 + count)]


def fail_for(account_id: UUID, error: Exception | None = None) -> Callable[..., Exception | None]:
    error = error or ValueError("poison")
    return lambda event: error if event.account_id == account_id else None


def test_new_events_and_the_position_are_saved_together(log: EventLog, mirror: Mirror) -> None:
    grow(log, 2)
    mirror.catch_up()
    (credit,) = [event for event in log.events.get(MIRROR_ID) if event.originator_version == 2]
    assert isinstance(credit, Account.CreditGranted)
    assert (credit.actor, credit.causation_id) == ("service:mirror", f"{ACCOUNT_ID}:2")
    assert mirror.effect.position() == ids(log)[-1]


def test_events_without_a_handler_move_the_position(log: EventLog, mirror: Mirror) -> None:
    grow(log, 1)
    mirror.catch_up()
    assert mirror.calls == []
    assert mirror.effect.position() == ids(log)[-1]


def test_no_event_is_handled_twice(log: EventLog, mirror: Mirror) -> None:
    grow(log, 5)
    mirror.catch_up()
    mirror.catch_up()
    assert mirror.credits == credit_events(ACCOUNT_ID, count=4)


@pytest.mark.full
def test_conflicts_never_park_an_event(log: EventLog, mirror: Mirror) -> None:
    def conflict() -> None:
        if len(mirror.calls) <= CONFLICT_ATTEMPTS:
            with command(f"rival {len(mirror.calls)}"):
                account = log.load(Account, MIRROR_ID)
                account.grant_credit(1, f"rival {len(mirror.calls)}")
                log.commit(account)

    grow(log, 2)
    mirror.before_commit = conflict
    with pytest.raises(VersionConflict):
        mirror.catch_up()
    assert (mirror.parked, len(mirror.calls)) == ([], CONFLICT_ATTEMPTS)
    mirror.catch_up()
    assert f"{ACCOUNT_ID}:2" in mirror.credits


def test_conflicts_keep_the_replay_of_an_event_requested(log: EventLog, mirror: Mirror) -> None:
    def conflict() -> None:
        raise VersionConflict("Another thread has saved the account.")

    grow(log, 2)
    mirror.catch_up(fail_for(ACCOUNT_ID))
    mirror.request_replay(*mirror.parked)
    mirror.before_commit = conflict
    with pytest.raises(VersionConflict):
        mirror.effect.replay_requested()
    mirror.before_commit = lambda: None
    assert mirror.effect.replay_requested() == 1


def test_a_handler_knows_the_number_of_its_attempt(log: EventLog, mirror: Mirror) -> None:
    seen: list[int] = []

    def fail_twice() -> None:
        seen.append(current_cause().attempt)
        if len(seen) == 1:
            raise VersionConflict("Another thread has saved the account.")
        if len(seen) == 2:
            raise ValueError("not yet")

    grow(log, 2)
    mirror.before_commit = fail_twice
    mirror.catch_up()
    assert seen == [1, 2, 3]


def test_an_event_handled_by_another_process_is_skipped(
    log: EventLog, mirror: Mirror, pool: ConnectionPool[Connection]
) -> None:
    rival = Mirror(log, pool)
    grow(log, 3)
    mirror.before_commit = lambda: rival.calls or rival.catch_up()
    mirror.catch_up()
    assert mirror.credits == credit_events(ACCOUNT_ID)
    assert mirror.parked == []


def test_a_failing_handler_is_retried_before_its_event_is_parked(
    log: EventLog, mirror: Mirror
) -> None:
    grow(log, 2)
    mirror.catch_up(lambda _: ValueError("not yet") if len(mirror.calls) < ATTEMPTS else None)
    assert (mirror.credits, mirror.parked) == ([f"{ACCOUNT_ID}:2"], [])


def test_a_parked_event_blocks_only_its_aggregate_in_all_later_batches(
    log: EventLog, mirror: Mirror
) -> None:
    grow(log, 2)
    grow(log, 3, OTHER_ID)
    grow(log, 1)
    mirror.catch_up(fail_for(ACCOUNT_ID))
    assert mirror.credits == credit_events(OTHER_ID)
    grow(log, 1)
    mirror.catch_up()
    assert mirror.credits == credit_events(OTHER_ID)
    rows = mirror.parked_rows()
    assert [row["error"] for row in rows] == ["ValueError: poison", *[BEHIND_PARKED] * 2]
    assert {row["originator_id"] for row in rows} == {ACCOUNT_ID}
    assert mirror.effect.position() == ids(log)[-1]


def test_a_replay_of_any_event_handles_all_of_its_aggregate_in_order(
    log: EventLog, mirror: Mirror
) -> None:
    grow(log, 3)
    mirror.catch_up(fail_for(ACCOUNT_ID))
    _, second = mirror.parked
    unknown, row = mirror.request_replay(10_000, second)
    assert unknown is None
    assert row is not None
    assert (row["notification_id"], row["replay"]) == (second, True)
    grow(log, 1)
    mirror.catch_up()
    assert mirror.effect.replay_requested() == 3
    assert (mirror.credits, mirror.parked) == (credit_events(ACCOUNT_ID, count=3), [])
    grow(log, 1)
    mirror.catch_up()
    assert mirror.credits == credit_events(ACCOUNT_ID, count=4)


def test_a_replay_during_a_batch_frees_its_aggregate(log: EventLog, mirror: Mirror) -> None:
    def replay() -> None:
        mirror.before_commit = lambda: None
        mirror.request_replay(mirror.parked[0])
        assert mirror.effect.replay_requested() == 1

    grow(log, 2)
    mirror.catch_up(fail_for(ACCOUNT_ID))
    grow(log, 2, OTHER_ID)
    grow(log, 1)
    mirror.before_commit = replay
    mirror.catch_up()
    assert set(mirror.credits) == {*credit_events(ACCOUNT_ID), *credit_events(OTHER_ID, count=1)}
    assert mirror.parked == []


@pytest.mark.parametrize(
    "error",
    [GenericError("unreachable"), OSError("no space left"), UpgradeUnfinished("not in format 1")],
)
def test_an_error_that_passes_parks_events_that_replay_automatically(
    log: EventLog, mirror: Mirror, error: Exception
) -> None:
    grow(log, 2)
    grow(log, 2, OTHER_ID)
    mirror.failing = fail_for(ACCOUNT_ID, error)
    mirror.catch_up()
    assert mirror.credits == credit_events(OTHER_ID, count=1)
    assert mirror.effect.replay_requested() == 0
    grow(log, 1)
    mirror.catch_up()
    mirror.failing = lambda _: None
    assert mirror.effect.replay_requested() == 2
    assert mirror.credits[1:] == credit_events(ACCOUNT_ID)
    assert mirror.parked == []


def test_an_event_of_a_newer_version_is_neither_parked_nor_skipped(
    log: EventLog, mirror: Mirror
) -> None:
    grow(log, 2)
    mirror.failing = fail_for(ACCOUNT_ID, NewerEvent("It has version 9."))
    with pytest.raises(NewerEvent):
        mirror.catch_up()
    assert (mirror.parked, mirror.credits) == ([], [])


def test_a_failed_replay_stays_parked_until_the_next_request(log: EventLog, mirror: Mirror) -> None:
    grow(log, 3)
    grow(log, 3, OTHER_ID)
    mirror.catch_up(lambda _: ValueError("poison"))
    mirror.failing = fail_for(ACCOUNT_ID)
    mirror.request_replay(*mirror.parked)
    assert mirror.effect.replay_requested() == 2
    assert mirror.credits == credit_events(OTHER_ID)
    assert len(mirror.parked) == 2
    assert mirror.effect.replay_requested() == 0


@pytest.mark.parametrize(
    "outage",
    [
        OperationalError("the store is unreachable"),
        psycopg.OperationalError("the connection is lost"),
        psycopg.InterfaceError("the connection is closed"),
        ConnectionClosedError(),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__module__.split(".")[0] + "." + type(error).__name__,
)
def test_an_outage_neither_parks_nor_skips_events(
    log: EventLog, mirror: Mirror, outage: Exception
) -> None:
    grow(log, 3)
    mirror.failing = lambda event: outage if event.event_id == f"{ACCOUNT_ID}:3" else None
    with pytest.raises(type(outage)):
        mirror.catch_up()
    assert (mirror.credits, mirror.parked) == ([f"{ACCOUNT_ID}:2"], [])
    mirror.failing = lambda _: None
    mirror.catch_up()
    assert mirror.credits == credit_events(ACCOUNT_ID)


def test_a_handler_with_a_span_inside_keeps_its_own_span_although_it_saves_nothing(
    log: EventLog, pool: ConnectionPool[Connection], collector: Collector
) -> None:
    """Another thread saved the pod that the handler launched."""

    def launch(_: Event) -> Sequence[Aggregate]:
        with tracing.timed("launch", pod="1"):
            return []

    span = f"00-{'a' * 32}-{'b' * 16}-01"
    with because(Cause("account:test", "command-1", NOW, traceparent=span)):
        log.commit(Account.open(ACCOUNT_ID, Role.OWNER, "UTC"))
    handlers = EventHandlers(dict.fromkeys(AGGREGATES, launch))
    effect = HandlerEffect("launcher", log, FixedClock(), handlers, pool.connection)
    OrderedConsumer(effect, log).catch_up()
    assert collector.names == ["launch", "process AccountOpened"]
    assert collector.named("launch").parent_id == collector.named("process AccountOpened").span_id
