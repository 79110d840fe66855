"""The scheduler deletes the data of an erased account."""

from __future__ import annotations

from contextlib import closing

import pytest

from domain import AGGREGATES
from domain.billing.account import Account
from domain.billing.suspension import SuspensionReason
from domain.core.aggregate import Aggregate, Event, because
from domain.core.event_log import EventLog
from domain.use_cases.erasing import Erasing, Holdings
from infrastructure.accounts.profiles import add_account_name, name_of_account
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.bus.event_handlers import EventHandlers, HandlerEffect
from infrastructure.postgres.store import open_pool
from infrastructure.process.clock import SystemClock
from infrastructure.settings import Settings
from services.scheduler.erasing import erasing
from tests.builders.platform import Platform


def test_the_data_of_an_erased_account_is_deleted_and_other_events_are_handled(
    settings: Settings, log: EventLog, caplog: pytest.LogCaptureFixture
) -> None:
    platform, handled = Platform(settings, log), list[Event]()
    ada, bob = platform.person(), platform.person()
    for person in (ada, bob):
        platform.artifacts.put(f"jobs/{person.account_id}/x/logs/segment-1.log", b"line")
    with because(platform.cause):
        platform.ecolink.suspend(ada.account_id, SuspensionReason.REQUEST)
        Erasing(log).erase(ada.account_id, Holdings(keys=(ada.key_id,)))

    def handle(event: Event) -> list[Aggregate]:
        handled.append(event)
        return []

    with closing(open_pool(settings, max_size=2)) as pool:
        with pool.connection() as connection:
            add_account_name(connection, ada.account_id, "ada")
            add_account_name(connection, bob.account_id, "bob")
        others = {kind: handle for kind in AGGREGATES if kind is not Account}
        handlers = EventHandlers({**others, **erasing(pool, platform.artifacts)})
        effect = HandlerEffect("scheduler", log, SystemClock(), handlers, pool.connection)
        with caplog.at_level("INFO"):
            OrderedConsumer(effect, log).catch_up()
        with pool.connection() as connection:
            assert name_of_account(connection, ada.account_id) is None
            assert name_of_account(connection, bob.account_id) == "bob"
    left = platform.artifacts.list("jobs")
    assert left == [f"jobs/{bob.account_id}/x/logs/segment-1.log"]
    assert "deleted 1 rows and 1 files" in caplog.text
    assert "ApiKeyRevoked" in [each.TOPIC for each in handled]
