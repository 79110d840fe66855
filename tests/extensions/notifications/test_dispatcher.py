"""Which deliveries start, and what an attempt changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from extensions.notifications.domain.message import WebhookType
from extensions.notifications.domain.retry_schedule import ATTEMPTS, MAX_DELAY
from extensions.notifications.webhooks.deliveries import (
    Attempt,
    DeliveryStatus,
    Due,
    delete_old,
    due_deliveries,
    record_attempt,
    replay,
    replay_failed,
)
from extensions.notifications.webhooks.endpoints import (
    DisabledReason,
    delete_endpoint,
    enable_endpoint,
    old_secret_ends,
    rotate_secret,
)
from extensions.notifications.webhooks.queue import DeliveryQueue
from infrastructure.http.dispatcher import Busy, Concurrency, Dispatcher
from infrastructure.postgres.log_identity import set_held
from tests.extensions.notifications.conftest import Hooks
from tests.polling import eventually_async

DAY = timedelta(days=1)
ACCEPTED, REFUSED = {"status_code": 200}, {"status_code": 500, "error": "Status 500."}


def due(hooks: Hooks, busy: Busy = Busy()) -> list[Due]:
    with hooks.pool.connection() as connection:
        return due_deliveries(connection, hooks.clock.now(), datetime.now(UTC), 100, busy)


def names(hooks: Hooks, busy: Busy = Busy()) -> list[str]:
    return [each.message_id for each in due(hooks, busy)]


def attempt(hooks: Hooks, name: str, **outcome: object) -> DeliveryStatus | None:
    """Store an attempt of a due delivery. The real time is far from the platform's."""
    (found,) = [each for each in due(hooks) if each.message_id == name]
    made = Attempt(hooks.clock.now() + 1000 * DAY, 12, **outcome)  # type: ignore[arg-type]
    with hooks.pool.connection() as connection:
        return record_attempt(connection, found.id, made, hooks.clock.now())


def test_a_later_message_of_a_job_waits_for_the_earlier_one(hooks: Hooks) -> None:
    endpoint, _ = hooks.endpoint()
    for name, job in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("b2", "b")):
        hooks.add(endpoint, name, job)
    assert names(hooks) == ["a1", "b1"]
    attempt(hooks, "a1", **ACCEPTED)
    assert names(hooks) == ["b1", "a2"]
    attempt(hooks, "b1", **REFUSED)
    assert names(hooks) == ["a2"], "b2 waits for the next attempt of b1"


def test_endpoints_do_not_wait_for_each_other(hooks: Hooks) -> None:
    for _ in range(2):
        endpoint, _ = hooks.endpoint()
        hooks.add(endpoint, "a1", "a")
        hooks.add(endpoint, "a2", "a")
    assert names(hooks) == ["a1", "a1"]


def test_a_failed_attempt_is_repeated_after_its_delay(hooks: Hooks) -> None:
    endpoint, _ = hooks.endpoint()
    delivery = hooks.add(endpoint, "a1")
    assert attempt(hooks, "a1", **REFUSED) is DeliveryStatus.PENDING
    assert names(hooks) == []
    hooks.clock.time += timedelta(seconds=6)
    assert names(hooks) == ["a1"]
    assert attempt(hooks, "a1", **ACCEPTED) is DeliveryStatus.DELIVERED
    assert hooks.errors(delivery) == ["Status 500.", None]


def exhaust(hooks: Hooks, name: str) -> None:
    """Refuse all attempts of a delivery."""
    for _ in range(ATTEMPTS):
        attempt(hooks, name, **REFUSED)
        hooks.clock.time += DAY


def test_an_endpoint_that_accepts_nothing_for_a_day_is_disabled(hooks: Hooks) -> None:
    endpoint, _ = hooks.endpoint()
    hooks.add(endpoint, "a1", "a")
    hooks.add(endpoint, "a2", "a")
    exhaust(hooks, "a1")
    disabled = hooks.reload(endpoint)
    assert (disabled.enabled, disabled.disabled_reason) == (False, DisabledReason.FAILING)
    assert hooks.statuses(endpoint) == {"a1": "failed", "a2": "pending"}
    assert names(hooks) == [], "messages wait for a disabled endpoint"
    with hooks.pool.connection() as connection:
        enable_endpoint(connection, endpoint.id, hooks.clock.now())
    assert hooks.reload(endpoint).disabled_reason is None
    assert names(hooks) == ["a2"]


def test_an_endpoint_that_refuses_only_one_message_stays_enabled(hooks: Hooks) -> None:
    endpoint, _ = hooks.endpoint()
    hooks.add(endpoint, "a1")
    attempt(hooks, "a1", **REFUSED)
    hooks.add(endpoint, "b1")
    attempt(hooks, "b1", **ACCEPTED)
    hooks.clock.time += DAY
    for _ in range(ATTEMPTS - 1):
        attempt(hooks, "a1", **REFUSED)
        hooks.clock.time += DAY
    assert hooks.statuses(endpoint)["a1"] == "failed"
    assert hooks.reload(endpoint).enabled


def test_the_other_webhooks_of_the_account_learn_that_one_is_disabled(hooks: Hooks) -> None:
    gone, _ = hooks.endpoint()
    other, _ = hooks.endpoint()
    filtered, _ = hooks.endpoint("https://example.com/", WebhookType.BALANCE_LOW)
    stranger, _ = hooks.endpoint(account_id=uuid4())
    hooks.add(gone, "a1")
    attempt(hooks, "a1", status_code=410, error="gone")
    (delivery,) = hooks.deliveries(other)
    assert delivery.event_type is WebhookType.WEBHOOK_DISABLED
    assert json.loads(delivery.body)["data"] == {"id": str(gone.id), "reason": "gone"}
    assert hooks.deliveries(filtered) == hooks.deliveries(stranger) == []
    assert len(hooks.deliveries(gone)) == 1


def test_the_status_410_disables_an_endpoint_at_once(hooks: Hooks) -> None:
    endpoint, _ = hooks.endpoint()
    hooks.add(endpoint, "a1")
    assert attempt(hooks, "a1", status_code=410, error="gone") is DeliveryStatus.FAILED
    assert hooks.reload(endpoint).disabled_reason is DisabledReason.GONE


def test_an_endpoint_receives_nothing_during_the_delay_that_it_requests(hooks: Hooks) -> None:
    endpoint, _ = hooks.endpoint()
    other, _ = hooks.endpoint()
    for name in ("a1", "b1"):
        hooks.add(endpoint, name)
    hooks.add(other, "c1")
    attempt(hooks, "a1", **REFUSED, retry_after=timedelta(minutes=2))
    hooks.add(endpoint, "t", type=WebhookType.TEST)
    assert names(hooks) == ["c1", "t"]
    hooks.clock.time += timedelta(minutes=2)
    assert sorted(names(hooks)) == ["a1", "b1", "c1", "t"]


def test_a_requested_delay_is_at_most_the_longest_delay_of_the_schedule(hooks: Hooks) -> None:
    endpoint, _ = hooks.endpoint()
    hooks.add(endpoint, "a1")
    attempt(hooks, "a1", **REFUSED, retry_after=timedelta(days=1000))
    hooks.clock.time += MAX_DELAY
    assert names(hooks) == ["a1"]


def test_a_test_is_sent_once_also_to_a_disabled_endpoint(hooks: Hooks) -> None:
    endpoint, _ = hooks.endpoint()
    hooks.add(endpoint, "a1")
    attempt(hooks, "a1", status_code=410, error="gone")
    hooks.add(endpoint, "t", type=WebhookType.TEST)
    assert names(hooks) == ["t"]
    assert attempt(hooks, "t", **REFUSED) is DeliveryStatus.FAILED
    assert hooks.reload(endpoint).disabled_reason is DisabledReason.GONE


def test_failed_and_delivered_messages_are_replayed_with_the_same_id(hooks: Hooks) -> None:
    endpoint, _ = hooks.endpoint()
    made = {name: hooks.add(endpoint, name) for name in ("a", "b", "c")}
    attempt(hooks, "a", **ACCEPTED)
    exhaust(hooks, "b")
    with hooks.pool.connection() as connection:
        enable_endpoint(connection, endpoint.id, hooks.clock.now())
        replay(connection, endpoint.id, made["a"].id, hooks.clock.now())
        late = made["b"].created_at + timedelta(seconds=1)
        assert replay_failed(connection, endpoint.id, late, hooks.clock.now()) == 0
        since = made["b"].created_at
        assert replay_failed(connection, endpoint.id, since, hooks.clock.now()) == 1
    assert sorted(names(hooks)) == ["a", "b", "c"]
    assert attempt(hooks, "b", **REFUSED) is DeliveryStatus.PENDING, "its attempts start again"
    assert len(hooks.errors(made["b"])) == ATTEMPTS + 1


def test_both_secrets_sign_until_the_old_one_expires(hooks: Hooks) -> None:
    endpoint, first = hooks.endpoint()
    hooks.add(endpoint, "a1")
    now = datetime.now(UTC)
    with hooks.pool.connection() as connection:
        second = rotate_secret(connection, endpoint.id, now, now + DAY)
        assert due(hooks)[0].secrets == [second, first]
        third = rotate_secret(connection, endpoint.id, now + DAY / 2, now + DAY)
        assert due(hooks)[0].secrets == [third, second], "at most two secrets sign"
        ends = old_secret_ends(connection, endpoint.account_id, now)
        assert ends == {endpoint.id: now + DAY}
        rotate_secret(connection, endpoint.id, now + DAY, now)
        assert len(due(hooks)[0].secrets) == 1


def test_a_deleted_endpoint_ends_its_deliveries(hooks: Hooks) -> None:
    endpoint, _ = hooks.endpoint()
    delivery = hooks.add(endpoint, "a1")
    with hooks.pool.connection() as connection:
        delete_endpoint(connection, endpoint.id)
        made = Attempt(hooks.clock.now(), 12, 200)
        assert record_attempt(connection, delivery.id, made, hooks.clock.now()) is None
    assert names(hooks) == []


def test_old_deliveries_are_deleted_and_pending_ones_kept(hooks: Hooks) -> None:
    endpoint, _ = hooks.endpoint()
    for name in ("a1", "b1"):
        hooks.add(endpoint, name)
    attempt(hooks, "a1", **ACCEPTED)
    with hooks.pool.connection() as connection:
        delete_old(connection, hooks.clock.now() + DAY, datetime.now(UTC))
    assert hooks.statuses(endpoint) == {"b1": "pending"}


class Sending:
    """A sender whose attempts wait for a slow endpoint."""

    def __init__(self, slow: set[str]) -> None:
        self.slow, self.released = slow, asyncio.Event()
        self.started: list[str] = []

    async def __call__(self, due: Due) -> Attempt:
        self.started.append(due.url)
        if due.url in self.slow:
            await self.released.wait()
        return Attempt(datetime.now(UTC), 1, 200)


@asynccontextmanager
async def dispatching(hooks: Hooks, sending: Sending, most: Concurrency) -> AsyncIterator[None]:
    queue = DeliveryQueue(hooks.pool, hooks.clock, sending, most.receiver)
    task = asyncio.create_task(Dispatcher(queue, most).run())
    try:
        yield
    finally:
        sending.released.set()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_slow_endpoint_delays_no_other_one(hooks: Hooks) -> None:
    slow, _ = hooks.endpoint("https://slow.example/")
    fast, _ = hooks.endpoint("https://fast.example/")
    for number in range(20):
        hooks.add(slow, f"s{number}")
    for number in range(20):
        hooks.add(fast, f"f{number}")
    sending = Sending({slow.url})
    async with dispatching(hooks, sending, Concurrency(receiver=2, account=4, process=8)):

        async def all_fast() -> bool:
            statuses = await asyncio.to_thread(hooks.statuses, fast)
            return set(statuses.values()) == {DeliveryStatus.DELIVERED}

        await eventually_async(all_fast)
        assert sending.started.count(slow.url) == 2
    assert set(hooks.statuses(slow).values()) <= {DeliveryStatus.DELIVERED, DeliveryStatus.PENDING}


async def test_a_slow_account_delays_no_other_one(hooks: Hooks) -> None:
    slow = [hooks.endpoint(f"https://slow.example/{n}")[0] for n in range(3)]
    other, _ = hooks.endpoint("https://other.example/", account_id=uuid4())
    for endpoint in (*slow, other):
        for number in range(5):
            hooks.add(endpoint, f"m{number}")
    sending = Sending({each.url for each in slow})
    async with dispatching(hooks, sending, Concurrency(receiver=2, account=4, process=8)):

        async def all_of_other() -> bool:
            statuses = await asyncio.to_thread(hooks.statuses, other)
            return set(statuses.values()) == {DeliveryStatus.DELIVERED}

        await eventually_async(all_of_other)
        assert sum(url in sending.slow for url in sending.started) == 4


async def test_a_restored_copy_sends_its_deliveries_once_after_the_confirmation(
    hooks: Hooks,
) -> None:
    endpoint, _ = hooks.endpoint()
    hooks.add(endpoint, "a1")

    async def accept(due: Due) -> Attempt:
        return Attempt(hooks.clock.now(), 12, 200)

    queue = DeliveryQueue(hooks.pool, hooks.clock, accept, 4)
    with hooks.pool.connection() as connection:
        set_held(connection, True)
        assert queue.due(Busy()) == []
        set_held(connection, False)
    (found,) = queue.due(Busy())
    queue.record(found, await queue.send(found))
    assert queue.due(Busy()) == []
    assert hooks.statuses(endpoint) == {"a1": "delivered"}
