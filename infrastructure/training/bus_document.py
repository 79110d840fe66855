"""The AsyncAPI document of the bus: every subject, and the schema of its messages."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import getdoc
from typing import Annotated, Any, Literal

import yaml
from faststream.nats import NatsBroker
from faststream.specification.asyncapi import AsyncAPI
from pydantic import BaseModel, GetJsonSchemaHandler, create_model
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from domain.core.aggregate import Event
from infrastructure.bus.streams import Envelope
from infrastructure.extensions import aggregates
from infrastructure.training.reports import (
    Control,
    EvaluationMeasured,
    LogLine,
    PodSeen,
    Report,
    StepMeasured,
)

TITLE, VERSION = "EcoLink bus", "1"

DESCRIPTION = """Messages on NATS. The stream EVENTS is an ordered copy of the event log. Every
message in it is an envelope: `state` has the fields of the event, and `prev_id` is the ID of the
previous event, so that a subscriber notices a lost one. The other streams have messages between
trainers and services."""

SEGMENT_MESSAGES = (Report, PodSeen, StepMeasured, EvaluationMeasured, LogLine)

IN_ENVELOPE = ("originator_id", "originator_version")
"""Fields of an event that the envelope has, but not its state."""


@dataclass(frozen=True)
class _State:
    """Changes the schema of an event to that of its stored state."""

    kind: type[Event]

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        found = handler(schema)
        resolved = handler.resolve_ref_schema(found)
        for name in IN_ENVELOPE:
            resolved["properties"].pop(name, None)
        resolved["required"] = [each for each in resolved["required"] if each not in IN_ENVELOPE]
        if (version := getattr(self.kind, "class_version", 1)) > 1:
            resolved["properties"]["class_version"] = {"const": version}
        return found


def document() -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document, which FastStream generates."""
    broker = NatsBroker("nats://localhost:4222")
    for aggregate in aggregates():
        for kind in aggregate.event_classes():
            subject = f"events.{{account_id}}.{aggregate.TOPIC}.{{originator_id}}.{kind.TOPIC}"
            _add(broker, subject, kind.TOPIC, message_of(kind))
    for kind in SEGMENT_MESSAGES:
        subject = f"{kind.KIND}.{{account_id}}.{{job_id}}.{{segment}}"
        _add(broker, subject, kind.__name__, kind)
    _add(broker, "control.{job_id}.{segment}", Control.__name__, Control)
    made = AsyncAPI(broker, title=TITLE, version=VERSION, description=" ".join(DESCRIPTION.split()))
    return made.to_specification().to_jsonable()


def as_yaml() -> str:
    """Return the document as YAML. The same code always gives the same text."""
    return yaml.safe_dump(document(), sort_keys=True, allow_unicode=True, width=100)


def message_of(kind: type[Event]) -> type[BaseModel]:
    """Return the model of the messages with an event."""
    return create_model(
        f"{kind.TOPIC}Message",
        __base__=Envelope,
        __doc__=getdoc(kind),
        topic=(Literal[kind.TOPIC], ...),  # type: ignore[valid-type]
        state=(Annotated[kind, _State(kind)], ...),  # pyright: ignore[reportArgumentType]
    )


def _add(broker: NatsBroker, subject: str, title: str, model: type[BaseModel]) -> None:
    description = " ".join((getdoc(model) or "").split())
    broker.publisher(subject, title=title, description=description, schema=model)
