"""Metrics of messages: labels by consumer, not by subject."""

from __future__ import annotations

import re

from nats.js import JetStreamContext
from prometheus_client import REGISTRY, generate_latest

from domain.core.event_log import EventLog
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.bus.service import broker_of
from infrastructure.bus.streams import provision
from infrastructure.settings import Settings
from tests.builders.effects import KeptIds
from tests.builders.history import History
from tests.logs import envelopes
from tests.polling import eventually_async


async def test_consumed_messages_are_counted_by_consumer(
    js: JetStreamContext, log: EventLog, settings: Settings
) -> None:
    History(log).run_with_a_crash()
    sent, seen = envelopes(log), KeptIds("measured")
    consumer = OrderedConsumer(seen, log)
    await provision(js, (consumer.durable,))
    measured = settings.model_copy(update={"metrics_port": 9400})
    broker_of(measured, "another role of the process")
    broker = broker_of(measured, "measured")
    consumer.subscribe(broker)
    await broker.start()
    try:
        for each in sent:
            await js.publish(each.subject, each.model_dump_json().encode())

        async def all_seen() -> bool:
            return len(seen.ids) == len(sent)

        assert await eventually_async(all_seen)
    finally:
        await broker.stop()
    text = generate_latest(REGISTRY).decode()
    counted = re.compile(r'^faststream_received_messages_total{.*handler="([^"]*)".*} (\S+)$', re.M)
    counts = {name: float(value) for name, value in counted.findall(text)}
    assert counts["measured"] == len(sent)
    assert not any("." in name for name in counts)
