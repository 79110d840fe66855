"""Projections that apply batches together: one that fails holds back no other one."""

from __future__ import annotations

from dataclasses import replace

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from domain.core.aggregate import Event
from domain.core.event_log import EventLog
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.postgres.store import Connection
from projections import ACCOUNTS, BILLING_LEDGER, MODELS
from projections.accounts import all_accounts
from projections.billing_ledger import postings_of
from projections.group import ProjectionGroup
from projections.projection import Cursor, ForeignShape, Projection, lowest_position, one_by_one
from tests.builders.examples import ACCOUNT_ID
from tests.logs import grow, ids
from tests.projections.conftest import Fold, OtherRelease


class Breakable:
    """The ledger, which fails at an event of the account with this version, if any."""

    def __init__(self) -> None:
        self.fails_at: int | None = None
        self.projection = replace(BILLING_LEDGER, apply=one_by_one(self._apply))

    def _apply(self, cursor: Cursor, event: Event) -> None:
        if event.originator_version == self.fails_at:
            cursor.execute("SELECT 1 / 0")


class Group:
    """A group of three projections, with its consumer."""

    def __init__(self, log: EventLog, pool: ConnectionPool[Connection]) -> None:
        self.breakable = Breakable()
        self.members = [ACCOUNTS, self.breakable.projection, MODELS]
        self.effect = ProjectionGroup(self.members, pool.connection)
        self.consumer = OrderedConsumer(self.effect, log)


@pytest.fixture
def group(log: EventLog, pool: ConnectionPool[Connection]) -> Group:
    return Group(log, pool)


def test_all_projections_apply_each_batch(
    group: Group, log: EventLog, connection: Connection
) -> None:
    grow(log, 1200)
    group.consumer.catch_up()
    assert all_accounts(connection)[0]["balance_micros"] == 1199
    assert lowest_position(connection, group.members) == ids(log)[-1]
    assert group.effect.take_left() == []


def test_a_projection_that_fails_stops_alone(
    group: Group, log: EventLog, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    group.breakable.fails_at = 700
    grow(log, 1200)
    group.consumer.catch_up()
    assert lowest_position(connection, [ACCOUNTS, MODELS]) == ids(log)[-1]
    assert lowest_position(connection, [BILLING_LEDGER]) < ids(log)[699]
    assert all_accounts(connection)[0]["balance_micros"] == 1199
    assert group.effect.take_left() == [group.breakable.projection]
    assert group.effect.take_left() == []
    assert "consumer.projection-billing_ledger" in [each.name for each in caplog.records]


def test_the_error_of_a_failed_batch_is_logged(
    group: Group, log: EventLog, caplog: pytest.LogCaptureFixture
) -> None:
    group.breakable.fails_at = 2
    grow(log, 3)
    group.consumer.catch_up()
    (warning,) = [each for each in caplog.records if each.name == "consumer.projections"]
    assert warning.levelname == "WARNING"
    assert warning.exc_info is not None
    assert warning.exc_info[0] is psycopg.errors.DivisionByZero


def test_a_projection_that_joins_again_applies_every_event_once(
    group: Group, log: EventLog, fold: Fold
) -> None:
    grow(log, 3)
    group.breakable.fails_at = 2
    group.consumer.catch_up()
    (left,) = group.effect.take_left()
    grow(log, 3)
    group.consumer.catch_up()
    group.breakable.fails_at = None
    group.effect.join(left)
    assert group.effect.position() == 0
    group.consumer.catch_up()
    connection = fold(ACCOUNTS, MODELS)
    assert all_accounts(connection)[0]["balance_micros"] == 5
    assert lowest_position(connection, group.members) == ids(log)[-1]


def test_if_all_projections_fail_none_leaves(
    group: Group, log: EventLog, connection: Connection
) -> None:
    def fail(cursor: Cursor, event: Event) -> None:
        raise psycopg.OperationalError("the disk is full")

    failing: list[Projection] = [
        replace(each, apply=one_by_one(fail)) for each in (ACCOUNTS, BILLING_LEDGER)
    ]
    grow(log, 3)
    group.effect = ProjectionGroup(failing, group.effect._connect)
    with pytest.raises(psycopg.OperationalError):
        OrderedConsumer(group.effect, log).catch_up()
    assert group.effect.take_left() == []
    assert all_accounts(connection) == []


def test_a_projection_that_is_behind_most_others_catches_up_alone(
    group: Group, log: EventLog, fold: Fold
) -> None:
    grow(log, 3)
    connection = fold(ACCOUNTS, MODELS)
    group.effect.leave_behind()
    assert group.effect.take_left() == [group.breakable.projection]
    assert group.effect.position() == ids(log)[-1]
    assert postings_of(connection, ACCOUNT_ID) == []


def test_a_projection_that_is_ahead_of_the_others_stays(
    group: Group, log: EventLog, fold: Fold
) -> None:
    grow(log, 3)
    fold(ACCOUNTS)
    group.effect.leave_behind()
    assert group.effect.take_left() == []
    group.consumer.catch_up()
    (account,) = all_accounts(fold(ACCOUNTS))
    assert account["balance_micros"] == 2


def test_tables_that_another_release_rebuilt_stay_unchanged(
    group: Group, log: EventLog, fold: Fold, other_release: OtherRelease
) -> None:
    grow(log, 3)
    group.consumer.catch_up()
    other_release.rebuild(ACCOUNTS)
    before = ids(log)[-1]
    grow(log, 3)
    group.consumer.catch_up()
    connection = fold(MODELS)
    assert all_accounts(connection)[0]["balance_micros"] == 2
    assert lowest_position(connection, [ACCOUNTS]) == before
    assert lowest_position(connection, [BILLING_LEDGER, MODELS]) == ids(log)[-1]
    assert group.effect.take_left() == [ACCOUNTS]


def test_a_projector_that_starts_on_tables_of_another_release_leaves_them_out(
    group: Group, log: EventLog, other_release: OtherRelease
) -> None:
    other_release.rebuild(ACCOUNTS)
    group.effect.leave_behind()
    assert group.effect.take_left() == [ACCOUNTS]


def test_if_another_release_rebuilt_all_tables_none_changes(
    group: Group, log: EventLog, connection: Connection, other_release: OtherRelease
) -> None:
    grow(log, 3)
    for each in (ACCOUNTS, BILLING_LEDGER, MODELS):
        other_release.rebuild(each)
    group.effect.leave_behind()
    grow(log, 3)
    with pytest.raises(ForeignShape):
        group.consumer.catch_up()
    assert all_accounts(connection)[0]["balance_micros"] == 2
