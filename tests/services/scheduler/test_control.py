"""The control channel: the last message of a segment contains all flags."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from nats.js import JetStreamContext

from infrastructure.bus.service import broker_of
from infrastructure.bus.streams import CONTROL, provision
from infrastructure.settings import Settings
from infrastructure.training.reports import Control, StoreCredentials, control_subject
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


async def last_message(js: JetStreamContext, segment: int = 1) -> dict[str, Any]:
    """Return the fields of a segment's last message that are set."""
    message = await js.get_last_msg(CONTROL, control_subject(JOB_ID, segment))
    said = Control.model_validate_json(message.data or b"")
    assert (said.job_id, said.segment) == (JOB_ID, segment)
    return said.model_dump(exclude={"job_id", "segment"}, exclude_defaults=True)


PAY, STOP, ANSWER = ControlChannel.pay, ControlChannel.stop, ControlChannel.answer
KEYS = StoreCredentials(
    access_key_id="a",
    secret_access_key="b",
    session_token="c",
    expires_at=datetime(2026, 1, 1, tzinfo=UTC),
)
RENEW = (ControlChannel.renew_store, KEYS)


@pytest.mark.parametrize(
    ("commands", "message"),
    [
        ([(PAY, 360), (PAY, 420), (PAY, 360)], {"paid_seconds": 420}),
        ([(PAY, 360), (ANSWER,)], {"paid_seconds": 360, "answered": True}),
        ([(PAY, 360), (STOP,)], {"paid_seconds": 360, "stop": True}),
        ([(PAY, 360), (STOP,), (PAY, 420)], {"paid_seconds": 420, "stop": True}),
        ([(ANSWER,), (PAY, 420), (STOP,)], {"paid_seconds": 0, "answered": True}),
        ([(PAY, 360, "a"), (STOP,)], {"paid_seconds": 360, "stop": True, "jwt": "a"}),
        ([(PAY, 360, "a"), (PAY, 420, "b")], {"paid_seconds": 420, "jwt": "b"}),
        (
            [(PAY, 360), RENEW, (STOP,)],
            {"paid_seconds": 360, "stop": True, "store": KEYS.model_dump()},
        ),
        ([RENEW, (PAY, 360)], {"paid_seconds": 360}),
    ],
    ids=[
        "paid time only grows",
        "an answer keeps the paid time",
        "a stop keeps the paid time",
        "a payment keeps the stop",
        "an answered segment gets no more messages",
        "a JWT stays",
        "until the next",
        "keys stay",
        "keys are not sent before the paid time is known",
    ],
)
async def test_a_message_contains_the_flags_of_earlier_ones(
    channel: ControlChannel,
    js: JetStreamContext,
    commands: list[tuple[Any, ...]],
    message: dict[str, Any],
) -> None:
    for send, *arguments in commands:
        await asyncio.to_thread(send, channel, JOB_ID, 1, *arguments)
    assert await last_message(js) == message


async def test_each_segment_gets_its_own_messages(
    channel: ControlChannel, js: JetStreamContext
) -> None:
    for segment in (1, 2):
        await asyncio.to_thread(channel.pay, JOB_ID, segment, 300 * segment)
    assert (await last_message(js, 1))["paid_seconds"] == 300
    assert (await last_message(js, 2))["paid_seconds"] == 600


async def test_ended_segments_are_forgotten(
    channel: ControlChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "ANSWERED_KEPT", 2)
    for segment in range(1, 5):
        await asyncio.to_thread(channel.pay, JOB_ID, segment, 300)
        await asyncio.to_thread(channel.answer, JOB_ID, segment)
    await asyncio.to_thread(channel.pay, JOB_ID, 5, 300)
    assert channel.kept == 3
    channel.forget(JOB_ID, 5)
    assert channel.kept == 2
