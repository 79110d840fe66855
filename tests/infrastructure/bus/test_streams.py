"""The bus: provisioning and event envelopes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from nats.js import JetStreamContext, api
from nats.js.errors import NotFoundError

from domain.access.role import Role
from domain.billing.account import Account
from domain.capacity.gpu_pool import GpuPool
from domain.core.aggregate import Aggregate
from domain.core.event_log import EventLog
from domain.core.identity import PLATFORM_ACCOUNT_ID
from domain.jobs.job import Job
from infrastructure.bus.streams import (
    EVENTS,
    MAX_DELIVERIES,
    REPORTS,
    STREAMS,
    TELEMETRY,
    Durable,
    Envelope,
    provision,
)
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID, ESTIMATE, JOB_ID, PLAN

pytestmark = pytest.mark.usefixtures("unseeded")

READER = Durable("reader", EVENTS, "events.>")
LISTENER = Durable("listener", REPORTS, "reports.>")


async def test_everything_declared_is_created_and_returned(js: JetStreamContext) -> None:
    changes = await provision(js, (READER, LISTENER))
    assert changes == [
        *(f"stream {config.name} created" for config in STREAMS),
        "consumer reader created",
        "consumer listener created",
    ]
    assert {info.config.name for info in await js.streams_info()} == {
        config.name for config in STREAMS
    }


async def test_provisioning_again_changes_nothing(js: JetStreamContext) -> None:
    await provision(js, (READER, LISTENER))
    assert await provision(js, (READER, LISTENER)) == []


@pytest.mark.parametrize("config", STREAMS, ids=lambda config: config.name)
async def test_a_changed_stream_is_restored(js: JetStreamContext, config: api.StreamConfig) -> None:
    await provision(js, ())
    await js.update_stream(config.evolve(max_bytes=1024**2))
    assert await provision(js, ()) == [f"stream {config.name} updated"]
    assert config.name is not None
    assert (await js.stream_info(config.name)).config.max_bytes == config.max_bytes


async def test_a_stream_keeps_the_subjects_of_another_release(js: JetStreamContext) -> None:
    await provision(js, ())
    config = (await js.stream_info(TELEMETRY)).config
    assert config.subjects is not None
    newer = config.evolve(subjects=[*config.subjects, "weather.>"])
    await js.update_stream(newer)
    assert await provision(js, ()) == []
    await js.publish("weather.today", b"sunny")
    await js.update_stream(config.evolve(subjects=["weather.>"]))
    assert await provision(js, ()) == [f"stream {TELEMETRY} updated"]
    assert set((await js.stream_info(TELEMETRY)).config.subjects or ()) == set(newer.subjects or ())


def test_a_segment_can_fill_a_small_part_of_a_stream_of_trainers() -> None:
    """All its subjects together, with messages of the maximum size."""
    for config in STREAMS:
        if config.name in (REPORTS, TELEMETRY):
            subjects = [each for each in config.subjects or () if each != "evidence.>"]
            assert config.max_msgs_per_subject > 0
            most = len(subjects) * config.max_msgs_per_subject * (config.max_msg_size or 0)
            assert 0 < most < (config.max_bytes or 0)


@pytest.mark.parametrize("acknowledges_all", [False, True])
async def test_only_messages_of_trainers_have_a_last_delivery(
    js: JetStreamContext, acknowledges_all: bool
) -> None:
    """An ordered consumer retries until it succeeds."""
    durable = replace(LISTENER, acknowledges_all=acknowledges_all)
    await provision(js, (durable,))
    found = (await js.consumer_info(REPORTS, durable.name)).config.max_deliver
    assert found == (-1 if acknowledges_all else MAX_DELIVERIES)


async def test_a_consumer_with_a_new_declaration_is_recreated(js: JetStreamContext) -> None:
    await provision(js, (READER,))
    narrower = replace(READER, filter_subject="events.*.Job.>")
    assert await provision(js, (narrower,)) == ["consumer reader recreated"]
    info = await js.consumer_info(EVENTS, READER.name)
    assert info.config.filter_subject == "events.*.Job.>"


async def test_a_recreated_consumer_receives_what_it_has_not_acknowledged(
    js: JetStreamContext,
) -> None:
    await provision(js, (LISTENER,))
    for number in range(4):
        await js.publish("reports.a.j.1", b"%d" % number)
    reader = await js.pull_subscribe_bind(LISTENER.name, REPORTS)
    first, _, third = await reader.fetch(3)
    await first.ack_sync()
    await third.ack_sync()
    await reader.unsubscribe()
    await provision(js, (replace(LISTENER, acknowledges_all=True),))
    reader = await js.pull_subscribe_bind(LISTENER.name, REPORTS)
    assert [message.data for message in await reader.fetch(3)] == [b"1", b"2", b"3"]


async def test_an_acknowledgement_of_a_repeated_message_leaves_later_messages(
    js: JetStreamContext,
) -> None:
    """The simulated bus does the same."""
    await provision(js, (replace(LISTENER, acknowledges_all=True),))
    for number in range(4):
        await js.publish("reports.a.j.1", b"%d" % number)
    reader = await js.pull_subscribe_bind(LISTENER.name, REPORTS)
    first, second, _, _ = await reader.fetch(4)
    await first.nak()
    await second.nak()
    repeated = await reader.fetch(2)
    assert [message.data for message in repeated] == [b"0", b"1"]
    await repeated[-1].ack_sync()
    assert (await reader.consumer_info()).num_ack_pending == 2


async def test_a_consumer_with_a_new_filter_starts_at_the_beginning(js: JetStreamContext) -> None:
    await provision(js, (replace(LISTENER, filter_subject="reports.b.>"),))
    for account in ("a", "b"):
        await js.publish(f"reports.{account}.j.1", account.encode())
    reader = await js.pull_subscribe_bind(LISTENER.name, REPORTS)
    (message,) = await reader.fetch(1)
    await message.ack_sync()
    await reader.unsubscribe()
    await provision(js, (LISTENER,))
    reader = await js.pull_subscribe_bind(LISTENER.name, REPORTS)
    assert [message.data for message in await reader.fetch(2)] == [b"a", b"b"]


async def test_a_deleted_consumer_is_recreated(js: JetStreamContext) -> None:
    await provision(js, (READER,))
    await js.delete_consumer(EVENTS, READER.name)
    assert await provision(js, (READER,)) == ["consumer reader created"]


async def test_a_deleted_stream_is_recreated_with_its_consumers(js: JetStreamContext) -> None:
    await provision(js, (READER, LISTENER))
    await js.delete_stream(EVENTS)
    assert await provision(js, (READER, LISTENER)) == [
        "stream EVENTS created",
        "consumer reader created",
    ]


async def test_a_consumer_without_a_stream_is_an_error(js: JetStreamContext) -> None:
    with pytest.raises(NotFoundError):
        await provision(js, (Durable("lost", "NOWHERE", ">"),))


def test_the_event_stream_is_limited_by_size_only() -> None:
    config = next(each for each in STREAMS if each.name == EVENTS)
    assert config.max_bytes
    assert not config.max_age


def _opened() -> Aggregate:
    return Account.open(ACCOUNT_ID, Role.OWNER, "Europe/Berlin")


def _approved() -> Aggregate:
    return Job.approve(JOB_ID, ACCOUNT_ID, PLAN, ESTIMATE)


@pytest.mark.parametrize("make", [_opened, _approved])
def test_an_event_keeps_its_content(log: EventLog, make: Callable[[], Aggregate]) -> None:
    with command():
        aggregate = make()
        (event,) = aggregate.pending_events
        log.commit(aggregate)
    (notification,) = log.recorder.select_notifications(start=None, limit=1)
    sent = Envelope.of(notification, prev_id=0)
    received = Envelope.model_validate_json(sent.model_dump_json())
    assert received == sent
    assert received.event_id == event.event_id
    assert received.event == event


@pytest.mark.parametrize(
    ("make", "account_id", "kind", "topic"),
    [
        (_opened, ACCOUNT_ID, "Account", "AccountOpened"),
        (_approved, ACCOUNT_ID, "Job", "JobApproved"),
        (lambda: GpuPool.open("local", "cpu"), PLATFORM_ACCOUNT_ID, "GpuPool", "GpuPoolOpened"),
    ],
)
def test_a_subject_names_account_aggregate_and_event(
    log: EventLog, make: Callable[[], Aggregate], account_id: object, kind: str, topic: str
) -> None:
    with command():
        aggregate = make()
        log.commit(aggregate)
    (notification,) = log.recorder.select_notifications(start=None, limit=1)
    assert Envelope.of(notification, 0).subject == (
        f"events.{account_id}.{kind}.{aggregate.id}.{topic}"
    )
