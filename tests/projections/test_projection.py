"""Rules of all projections: rows and position change together, and repetition changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, cast
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from domain.core.aggregate import Event
from domain.core.event_log import EventLog
from domain.core.recorded import Recorded
from domain.core.topics import topics_of
from domain.jobs.job_request import JobRequest
from domain.jobs.lifecycle import JobStatus
from infrastructure.bus.consumer import OrderedConsumer, recorded
from infrastructure.postgres.store import Connection
from projections import ACCOUNTS, PROJECTIONS, job_detail
from projections.accounts import all_accounts
from projections.merged_rows import MergedRows
from projections.projection import (
    Cursor,
    Projection,
    ProjectionEffect,
    lowest_position,
    one_by_one,
)
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID
from tests.builders.history import History
from tests.builders.stored_examples import EXAMPLES
from tests.domain.jobs.test_job_request import CHOICES, ORDER
from tests.extension_modules import extension_modules
from tests.logs import grow, ids, notifications
from tests.projections.conftest import Fold


def contents(connection: Connection, projection: Projection) -> list[list[dict[str, object]]]:
    """Return every row of a projection's tables."""
    return [
        connection.execute(f"SELECT * FROM {table} ORDER BY {table}::text").fetchall()  # type: ignore[arg-type]
        for table in projection.tables
    ]


def test_repeating_events_changes_nothing(
    pool: ConnectionPool[Connection],
    connection: Connection,
    history: History,
    subtests: pytest.Subtests,
) -> None:
    log = history.log
    history.run_with_a_crash()
    history.undeploy(history.deploy_checkpoint(10))
    history.pay_by_card()
    running = History(log, job_id=uuid4())
    running.approve_job()
    running.allocate_segment(1)
    running.grant_lease(1)
    with command("order"):
        log.commit(JobRequest.ordered(uuid4(), ACCOUNT_ID, CHOICES, ORDER))
        for each in extension_modules("example_events"):
            each.add(log)
    batch = [recorded(log, notification) for notification in notifications(log)]
    for projection in PROJECTIONS:
        with subtests.test(projection.name):
            effect = ProjectionEffect(projection, pool.connection)
            effect.apply(batch)
            before = contents(connection, projection)
            effect.apply(batch)
            effect.apply(batch[:3])
            assert any(before)
            assert contents(connection, projection) == before
            assert effect.position() == batch[-1].id


def test_rows_and_position_are_committed_together(
    log: EventLog, pool: ConnectionPool[Connection], connection: Connection
) -> None:
    def apply(cursor: Cursor, event: Event) -> None:
        ACCOUNTS.apply(cursor, [Recorded.of(1, event)])
        if event.originator_version == 3:
            raise psycopg.OperationalError("killed")

    grow(log, 4)
    effect = ProjectionEffect(replace(ACCOUNTS, apply=one_by_one(apply)), pool.connection)
    with pytest.raises(psycopg.OperationalError):
        OrderedConsumer(effect, log).catch_up()
    assert all_accounts(connection) == []
    assert effect.position() == 0


class Touched(Exception):
    """A projection executed a statement."""


class NoStatements:
    """A cursor that refuses to execute anything."""

    @property
    def connection(self) -> Connection:
        raise Touched

    def execute(self, *_: object, **__: object) -> None:
        raise Touched


@pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda projection: projection.name)
def test_a_projection_declares_the_events_that_change_it(
    projection: Projection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(rows: MergedRows, ids: Collection[UUID], columns: Sequence[str]) -> None:
        stored = job_detail.STARTED | {
            "status": JobStatus.TRAINING,
            "phase": "training",
            "relaunch_at": EXAMPLES[0].event.timestamp,
        }
        rows._loaded = {each: {name: stored[name] for name in columns} for each in ids}

    monkeypatch.setattr(MergedRows, "load", load)
    changing = set[str]()
    for each in EXAMPLES:
        try:
            projection.apply(cast("Any", NoStatements()), [each])
        except Touched:
            changing.add(each.topic)
    assert changing <= projection.topics
    assert topics_of(*(kind for kind in projection.reads if issubclass(kind, Event))) <= changing


def test_events_that_a_projection_does_not_need_are_not_decoded(
    pool: ConnectionPool[Connection],
) -> None:
    def decode() -> Event:
        raise AssertionError

    effect = ProjectionEffect(ACCOUNTS, pool.connection)
    effect.apply([Recorded(7, "MinuteMetered", uuid4(), decode)])
    assert effect.position() == 7


def test_the_lowest_position_is_that_of_the_slowest_projection(log: EventLog, fold: Fold) -> None:
    grow(log, 3)
    connection = fold(ACCOUNTS)
    assert lowest_position(connection, [ACCOUNTS]) == ids(log)[-1]
    assert lowest_position(connection, PROJECTIONS) == 0
