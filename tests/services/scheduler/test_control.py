"""The control channel: the last message of a segment stays in force."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from nats.js import JetStreamContext

from infrastructure.bus import CONTROL, provision
from infrastructure.reports import Control, control_subject
from infrastructure.service import broker_of
from infrastructure.settings import Settings
from services.scheduler import control
from services.scheduler.control import ControlChannel
from tests.builders.examples import JOB_ID


@pytest.fixture
async def channel(settings: Settings, js: JetStreamContext) -> AsyncIterator[ControlChannel]:
    await provision(js, ())
    broker = broker_of(settings, "scheduler")
    await broker.start()
    opened = ControlChannel(broker)
    opened.bind()
    yield opened
    await broker.stop()


async def in_force(js: JetStreamContext, segment: int = 1) -> Control:
    message = await js.get_last_msg(CONTROL, control_subject(JOB_ID, segment))
    assert message.data is not None
    return Control.model_validate_json(message.data)


async def test_paid_time_only_grows(channel: ControlChannel, js: JetStreamContext) -> None:
    for paid_seconds in (360, 420, 360):
        await asyncio.to_thread(channel.pay, JOB_ID, 1, paid_seconds)
    assert (await in_force(js)).paid_seconds == 420


async def test_an_answer_keeps_the_paid_time(channel: ControlChannel, js: JetStreamContext) -> None:
    await asyncio.to_thread(channel.pay, JOB_ID, 1, 360)
    await asyncio.to_thread(channel.answer, JOB_ID, 1)
    assert await in_force(js) == Control(job_id=JOB_ID, segment=1, paid_seconds=360, answered=True)


async def test_a_stop_stays_in_force_when_time_is_paid(
    channel: ControlChannel, js: JetStreamContext
) -> None:
    await asyncio.to_thread(channel.pay, JOB_ID, 1, 360)
    await asyncio.to_thread(channel.stop, JOB_ID, 1)
    assert await in_force(js) == Control(job_id=JOB_ID, segment=1, paid_seconds=360, stop=True)
    await asyncio.to_thread(channel.pay, JOB_ID, 1, 420)
    assert await in_force(js) == Control(job_id=JOB_ID, segment=1, paid_seconds=420, stop=True)


async def test_each_segment_gets_its_own_messages(
    channel: ControlChannel, js: JetStreamContext
) -> None:
    await asyncio.to_thread(channel.pay, JOB_ID, 1, 360)
    await asyncio.to_thread(channel.pay, JOB_ID, 2, 300)
    assert (await in_force(js, 1)).paid_seconds == 360
    assert (await in_force(js, 2)).paid_seconds == 300


async def test_an_answered_segment_gets_no_more_messages(
    channel: ControlChannel, js: JetStreamContext
) -> None:
    await asyncio.to_thread(channel.answer, JOB_ID, 1)
    await asyncio.to_thread(channel.pay, JOB_ID, 1, 420)
    await asyncio.to_thread(channel.stop, JOB_ID, 1)
    assert await in_force(js) == Control(job_id=JOB_ID, segment=1, paid_seconds=0, answered=True)


async def test_ended_segments_are_forgotten(
    channel: ControlChannel, js: JetStreamContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "ANSWERED_KEPT", 2)
    for segment in range(1, 5):
        await asyncio.to_thread(channel.pay, JOB_ID, segment, 300)
        await asyncio.to_thread(channel.answer, JOB_ID, segment)
    await asyncio.to_thread(channel.pay, JOB_ID, 5, 300)
    assert channel.kept == 3
    channel.forget(JOB_ID, 5)
    assert channel.kept == 2


async def test_a_renewed_jwt_stays_until_the_next(
    channel: ControlChannel, js: JetStreamContext
) -> None:
    await asyncio.to_thread(channel.pay, JOB_ID, 1, 360, "first")
    await asyncio.to_thread(channel.stop, JOB_ID, 1)
    assert (await in_force(js)).jwt == "first"
    await asyncio.to_thread(channel.pay, JOB_ID, 1, 420, "second")
    assert (await in_force(js)).jwt == "second"
