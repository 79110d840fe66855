"""Schemas of the fields of every event, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from domain.core.aggregate import Event
from gateway.events.schemas import EventResponse, hidden_fields
from infrastructure.extensions import aggregates

Schema = dict[str, Any]


def event_schemas() -> dict[str, Schema]:
    """Return the schema of each event's fields by topic. Each schema has its own `$defs`."""
    found = {kind.TOPIC: kind for aggregate in aggregates() for kind in aggregate.event_classes()}
    return {topic: _schema(topic, found[topic]) for topic in sorted(found)}


def add_event_schemas(components: dict[str, Schema]) -> None:
    """Add the event schemas to the components of a document. Refer to them from EventResponse."""
    schemas = event_schemas()
    components.update({component(topic): schema for topic, schema in schemas.items()})
    fields = components[EventResponse.__name__]["properties"]["fields"]
    for key in ("type", "additionalProperties"):
        fields.pop(key)
    fields["anyOf"] = [{"$ref": f"#/components/schemas/{component(topic)}"} for topic in schemas]


def component(topic: str) -> str:
    return f"{topic}Fields"


def _schema(topic: str, kind: type[Event]) -> Schema:
    template = f"#/components/schemas/{component(topic)}/$defs/{{model}}"
    schema = kind.model_json_schema(mode="serialization", ref_template=template)
    schema["title"] = component(topic)
    shown = schema["properties"].keys() - hidden_fields(kind)
    schema["properties"] = {
        name: {key: value for key, value in part.items() if key != "default"}
        for name, part in schema["properties"].items()
        if name in shown
    }
    schema["required"] = list(schema["properties"])  # a stored event has all of its fields
    return schema
