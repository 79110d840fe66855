"""FastStream's metrics of consumed and published messages.

Its own middleware labels each message with its subject, of which there is one for each aggregate.
Here, the labels are the name of the durable consumer, and the first part of a published subject.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from faststream.nats.prometheus.provider import (
    BatchNatsMetricsSettingsProvider,
    NatsMetricsSettingsProvider,
)
from faststream.nats.response import NatsPublishCommand
from faststream.prometheus import ConsumeAttrs
from faststream.prometheus.middleware import PrometheusMiddleware
from nats.aio.msg import Msg
from nats.errors import NotJSMessageError
from prometheus_client import REGISTRY


class _Message(NatsMetricsSettingsProvider):
    def get_consume_attrs_from_message(self, msg: Any) -> ConsumeAttrs:
        attributes = super().get_consume_attrs_from_message(msg)
        attributes["destination_name"] = _consumer(msg.raw_message)
        return attributes

    def get_publish_destination_name_from_cmd(self, cmd: Any) -> str:
        return _kind(cmd.destination)


class _Batch(BatchNatsMetricsSettingsProvider):
    def get_consume_attrs_from_message(self, msg: Any) -> ConsumeAttrs:
        attributes = super().get_consume_attrs_from_message(msg)
        attributes["destination_name"] = _consumer(msg.raw_message[0])
        return attributes


def _consumer(message: Msg) -> str:
    try:
        return message.metadata.consumer
    except NotJSMessageError:
        return _kind(message.subject)


def _kind(subject: str) -> str:
    return subject.partition(".")[0]


def _provider(message: object) -> _Message | _Batch | None:
    if isinstance(message, Sequence):
        return _Batch()
    return _Message() if isinstance(message, Msg) or message is None else None


class BusMetrics(PrometheusMiddleware[Msg | Sequence[Msg], NatsPublishCommand]):
    """A middleware that counts and times messages in the metrics of this process."""

    def __init__(self) -> None:
        super().__init__(settings_provider_factory=_provider, registry=REGISTRY)  # type: ignore[arg-type]


_lock = threading.Lock()
_metrics: BusMetrics | None = None


def bus_metrics() -> BusMetrics:
    """Return the middleware of all brokers of this process, which registers its metrics once."""
    global _metrics
    with _lock:
        if _metrics is None:
            _metrics = BusMetrics()
        return _metrics
