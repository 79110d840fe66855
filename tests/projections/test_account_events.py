"""The index of events by account and by job."""

from __future__ import annotations

import pytest

from domain.core.event_log import EventLog
from projections import ACCOUNT_EVENTS, DEPLOYMENTS, account_events
from projections.account_events import EventFilter, indexed_events, newest_events
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.builders.history import History
from tests.logs import ids, notifications
from tests.projections.conftest import Fold

OF_ACCOUNT, OF_JOB = EventFilter(ACCOUNT_ID), EventFilter(ACCOUNT_ID, JOB_ID)


def test_a_filter_selects_events_by_account_and_job_in_the_order_of_the_log(
    log: EventLog, history: History, fold: Fold
) -> None:
    history.run_with_a_crash()
    connection = fold(ACCOUNT_EVENTS)
    everything, known = indexed_events(connection, EventFilter(None), 0, 1000)
    assert (list(everything), known) == (notifications(log), ids(log)[-1])
    own, _ = indexed_events(connection, OF_ACCOUNT, 0, 1000)
    about, _ = indexed_events(connection, OF_JOB, 0, 1000)
    rest, _ = indexed_events(connection, OF_JOB, about[4].id, 2)
    topics = {each.topic for each in about}
    assert {"JobApproved", "MeterOpened", "MinuteMetered", "ChargeReversed"} <= topics
    assert "ToppedUp" not in topics
    assert len(about) < len(own) < len(everything)
    assert rest == about[5:7]


def test_the_end_of_the_index_is_returned(log: EventLog, history: History, fold: Fold) -> None:
    history.open_account(100)
    connection, indexed = fold(ACCOUNT_EVENTS), ids(log)[-1]
    history.top_up(5, "later")
    found, known = indexed_events(connection, OF_ACCOUNT, 0, 10)
    assert (found[-1].id, known) == (indexed, indexed)


def test_the_newest_events_of_a_long_job_include_its_start(
    history: History, fold: Fold, monkeypatch: pytest.MonkeyPatch
) -> None:
    history.run_with_a_crash()
    connection = fold(ACCOUNT_EVENTS)
    monkeypatch.setattr(account_events, "MAX_NEWEST", 3)
    found, _ = newest_events(connection, ACCOUNT_ID, JOB_ID, ["MinuteMetered"], 2)
    about, _ = indexed_events(connection, OF_JOB, 0, 1000)
    others, _ = newest_events(connection, JOB_ID, JOB_ID, [], 2)
    assert [each.topic for each in found][:2] == ["JobApproved", "SegmentAllocated"]
    assert found[-2:] == about[-2:]
    assert [each.id for each in found] == sorted({each.id for each in found})
    assert not others


def test_events_of_a_deployment_are_events_of_its_job(
    history: History, fold: Fold, monkeypatch: pytest.MonkeyPatch
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
    connection = fold(ACCOUNT_EVENTS, DEPLOYMENTS)
    about, _ = indexed_events(connection, EventFilter(None, JOB_ID), 0, 1000)
    monkeypatch.setattr(account_events, "MAX_NEWEST", 3)
    found, _ = newest_events(connection, ACCOUNT_ID, JOB_ID, ["MinuteMetered"], 3)
    last = ["DeploymentRequested", "DeploymentActivated", "Undeployed", *["MinuteMetered"] * 3]
    assert [each.topic for each in about][-6:] == last
    assert [each.topic for each in found][-6:] == last
