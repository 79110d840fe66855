"""Deliveries of events, stored with the position."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest
from psycopg_pool import ConnectionPool

from domain.billing.budget import BudgetName, BudgetPeriod
from domain.billing.key_use import Share
from domain.core.event_log import EventLog
from extensions.notifications import recording
from extensions.notifications.domain.message import WebhookType
from extensions.notifications.recording import RecordingEffect
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.postgres.store import Connection
from tests.builders.commands import FixedClock
from tests.builders.history import History
from tests.extensions.notifications.conftest import Hooks
from tests.logs import ids


@pytest.fixture
def consumer(log: EventLog, pool: ConnectionPool[Connection]) -> OrderedConsumer:
    return OrderedConsumer(RecordingEffect(log, FixedClock(), pool.connection), log)


def types(hooks: Hooks, endpoint: object) -> list[str]:
    return [each.event_type for each in hooks.deliveries(endpoint)]  # type: ignore[arg-type]


def test_an_endpoint_receives_the_events_after_its_creation(
    history: History, hooks: Hooks, consumer: OrderedConsumer
) -> None:
    history.run_until("approved")
    history.pause()
    endpoint, _ = hooks.endpoint()
    other, _ = hooks.endpoint(account_id=uuid4())
    history.resume()
    history.allocate_segment(1)
    consumer.catch_up()
    assert types(hooks, endpoint) == ["capacity.available"]
    assert types(hooks, other) == []


def test_a_filter_selects_types(history: History, hooks: Hooks, consumer: OrderedConsumer) -> None:
    endpoint, _ = hooks.endpoint("https://example.com/", WebhookType.JOB_CANCELLED)
    history.run_until("approved")
    history.pause()
    history.cancel()
    consumer.catch_up()
    assert types(hooks, endpoint) == ["fine_tuning.job.cancelled"]


def test_the_message_of_a_budget_names_its_key(
    history: History, hooks: Hooks, consumer: OrderedConsumer
) -> None:
    endpoint, _ = hooks.endpoint("https://example.com/", WebhookType.BUDGET_USED)
    history.open_account(1_000_000)
    key = history.issue_key()
    with history.changing_account() as account:
        account.set_budget(BudgetName(BudgetPeriod.TOTAL, key.id), 500, 0)
        account.settle(captured_micros=300, reserved_micros=300, keys={key.id: Share(300, 300)})
    consumer.catch_up()
    (delivery,) = hooks.deliveries(endpoint)
    assert json.loads(delivery.body)["data"]["key_hint"] == key.hint


def test_the_message_of_a_deployment_has_its_model(
    history: History, hooks: Hooks, consumer: OrderedConsumer
) -> None:
    endpoint, _ = hooks.endpoint("https://example.com/", WebhookType.DEPLOYMENT_ACTIVE)
    history.import_base()
    history.deploy_base()
    history.run_until("training")
    history.save_checkpoint(1, 10, 40)
    model = history.deploy_checkpoint(10)
    history.activate(model)
    consumer.catch_up()
    (delivery,) = hooks.deliveries(endpoint)
    assert f'"model":"{model}"' in delivery.body


def test_repeated_batches_store_each_delivery_once(
    history: History, hooks: Hooks, consumer: OrderedConsumer, log: EventLog
) -> None:
    endpoint, _ = hooks.endpoint()
    history.run_until("approved")
    history.pause()
    consumer.catch_up()
    assert consumer.effect.position() == ids(log)[-1]
    assert consumer.catch_up() == 0
    assert types(hooks, endpoint) == ["fine_tuning.job.paused"]


def test_deliveries_and_the_position_are_stored_together(
    history: History, hooks: Hooks, consumer: OrderedConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, _ = hooks.endpoint()
    history.run_until("approved")
    history.pause()
    store = recording.add_deliveries

    def killed(*arguments: object) -> None:
        store(*arguments)  # type: ignore[arg-type]
        raise RuntimeError("killed")

    monkeypatch.setattr(recording, "add_deliveries", killed)
    with pytest.raises(RuntimeError, match="killed"):
        consumer.catch_up()
    assert hooks.deliveries(endpoint) == []
    assert consumer.effect.position() == 0
    monkeypatch.undo()
    consumer.catch_up()
    assert types(hooks, endpoint) == ["fine_tuning.job.paused"]
