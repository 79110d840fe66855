"""The index of the log: which events are an account's, and which are about a job."""

from __future__ import annotations

import pytest
from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from infrastructure.store import Connection
from projections import ACCOUNT_EVENTS, DEPLOYMENTS, account_events
from projections.account_events import EventFilter, indexed_events, newest_events
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.builders.history import History
from tests.logs import ids, notifications
from tests.projections.conftest import Fold


def test_events_of_accounts_and_of_jobs_come_as_the_log_has_them(
    log: EventLog, pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.run_with_a_crash()
    fold(ACCOUNT_EVENTS)
    whole = notifications(log)
    with pool.connection() as connection:
        everything, known = indexed_events(connection, EventFilter(None), 0, 1000)
        assert (list(everything), known) == (whole, ids(log)[-1])
        own, _ = indexed_events(connection, EventFilter(ACCOUNT_ID), 0, 1000)
        about, _ = indexed_events(connection, EventFilter(ACCOUNT_ID, JOB_ID), 0, 1000)
        rest, _ = indexed_events(connection, EventFilter(ACCOUNT_ID, JOB_ID), about[4].id, 2)
    topics = [each.topic for each in about]
    assert {"JobApproved", "MeterOpened", "MinuteMetered", "ChargeReversed"} <= set(topics)
    assert "ToppedUp" not in topics
    assert len(about) < len(own) < len(everything)
    assert rest == about[5:7]


def test_how_far_the_index_goes_is_known(
    log: EventLog, pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.open_account(100)
    fold(ACCOUNT_EVENTS)
    known_then = ids(log)[-1]
    history.top_up(5, "later")
    with pool.connection() as connection:
        found, known = indexed_events(connection, EventFilter(ACCOUNT_ID), 0, 10)
    assert (found[-1].id, known) == (known_then, known_then)


def test_a_long_job_keeps_its_beginning(
    log: EventLog,
    pool: ConnectionPool[Connection],
    history: History,
    fold: Fold,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history.run_with_a_crash()
    fold(ACCOUNT_EVENTS)
    monkeypatch.setattr(account_events, "MAX_NEWEST", 3)
    with pool.connection() as connection:
        found, _ = newest_events(connection, ACCOUNT_ID, JOB_ID, ["MinuteMetered"], 2)
        about, _ = indexed_events(connection, EventFilter(ACCOUNT_ID, JOB_ID), 0, 1000)
        others, _ = newest_events(connection, JOB_ID, JOB_ID, [], 2)
    assert [each.topic for each in found][:2] == ["JobApproved", "SegmentAllocated"]
    assert found[-2:] == about[-2:]
    assert [each.id for each in found] == sorted({each.id for each in found})
    assert not others


def test_deployments_are_about_the_job_whose_model_they_serve(
    pool: ConnectionPool[Connection],
    history: History,
    fold: Fold,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history.import_base()
    history.deploy_base()
    history.run_until("training")
    history.save_checkpoint(1, 10, 40)
    model = history.deploy_checkpoint(10)
    history.activate(model)
    fold(ACCOUNT_EVENTS, DEPLOYMENTS)
    history.undeploy(model)
    history.bill(1, 185)
    fold(ACCOUNT_EVENTS, DEPLOYMENTS)
    served = ["DeploymentRequested", "DeploymentActivated", "Undeployed"]
    with pool.connection() as connection:
        about, _ = indexed_events(connection, EventFilter(None, JOB_ID), 0, 1000)
        monkeypatch.setattr(account_events, "MAX_NEWEST", 3)
        found, _ = newest_events(connection, ACCOUNT_ID, JOB_ID, ["MinuteMetered"], 3)
    minutes = ["MinuteMetered"] * 3
    assert [each.topic for each in about][-6:] == [*served, *minutes]
    assert [each.topic for each in found][-6:] == [*served, *minutes], "however long ago"
