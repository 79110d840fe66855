"""Contents of the reference page, from the OpenAPI document and the event classes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from gateway.events.openapi_schemas import component, event_schemas
from gateway.http.openapi import operations

Schema = dict[str, Any]

UNSAID = "Successful Response"
"""FastAPI's default description of a response."""

MOST_VARIANTS = 12
"""Maximum number of listed variants of a union type. Events have many more."""

LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
}


@dataclass(frozen=True)
class Field:
    name: str
    place: str
    kind: str
    refers_to: str | None
    required: bool
    description: str


@dataclass(frozen=True)
class Body:
    status: str
    description: str
    media_types: str
    kind: str
    refers_to: str | None
    example: str | None


@dataclass(frozen=True)
class Operation:
    id: str
    method: str
    path: str
    title: str
    text: str
    fields: list[Field]
    request: Body | None
    answers: list[Body]
    refusals: list[Body]


@dataclass(frozen=True)
class Record:
    name: str
    description: str
    fields: list[Field]


def render(document: dict[str, Any]) -> str:
    return _rendered(json.dumps(document))


@cache
def _rendered(text: str) -> str:
    document: dict[str, Any] = json.loads(text)
    groups: dict[str, list[Operation]] = {}
    for method, path, operation in operations(document):
        groups.setdefault(operation["tags"][0], []).append(_operation(method, path, operation))
    schemas: dict[str, Schema] = document["components"]["schemas"]
    events = {topic: component(topic) for topic in event_schemas()}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["coded"] = _coded
    return environment.get_template("reference.html").render(
        info=document["info"],
        paragraphs=document["info"]["description"].strip().split("\n\n"),
        groups=groups,
        schemas=[
            Record(name, schema.get("description", ""), list(_fields(schema)))
            for name, schema in sorted(schemas.items())
            if name not in events.values()
        ],
        events=[
            Record(topic, schemas[name].get("description", ""), list(_fields(schemas[name])))
            for topic, name in events.items()
        ],
    )


def _coded(text: str) -> Markup:
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else part
        for number, part in enumerate(parts)
    )


def _operation(method: str, path: str, operation: Schema) -> Operation:
    title, _, text = operation["description"].partition("\n\n")
    answers = [_body(answer, status) for status, answer in operation["responses"].items()]
    request = operation.get("requestBody")
    return Operation(
        id=operation["operationId"],
        method=method.upper(),
        path=path,
        title=title.replace("\n", " "),
        text=text.replace("\n", " "),
        fields=[
            _field(
                each["name"],
                each["schema"] | {"description": each.get("description", "")},
                each.get("required", False),
                each["in"],
            )
            for each in operation.get("parameters", [])
        ],
        request=None if request is None else _body(request),
        answers=[each for each in answers if each.status < "400"],
        refusals=[each for each in answers if each.status >= "400"],
    )


def _body(body: Schema, status: str = "") -> Body:
    content: dict[str, Schema] = body.get("content", {})
    first = next(iter(content.values()), {})
    kind, refers_to = _kind(first["schema"]) if "schema" in first else ("", None)
    example = first.get("example")
    if example is not None and not isinstance(example, str):
        example = json.dumps(example, indent=2, ensure_ascii=False)
    description = body.get("description", "")
    if description == UNSAID:
        description = ""
    return Body(status, description, ", ".join(content), kind, refers_to, example)


def _fields(schema: Schema) -> Iterator[Field]:
    required = schema.get("required", [])
    for name, part in schema.get("properties", {}).items():
        yield _field(name, part, name in required, "")


def _field(name: str, schema: Schema, required: bool, place: str) -> Field:
    kind, refers_to = _kind(schema)
    notes = [str(schema.get("description", ""))]
    notes += [note.format(schema[key]) for key, note in LIMITS.items() if key in schema]
    for variant in schema.get("anyOf", []):
        notes += [note.format(variant[key]) for key, note in LIMITS.items() if key in variant]
    if schema.get("default") not in (None, "", []):
        notes.append(f"default {json.dumps(schema['default'])}")
    described = "; ".join(note.rstrip(".") for note in notes if note)
    return Field(name, place, kind, refers_to, required, f"{described}." if described else "")


def _kind(schema: Schema) -> tuple[str, str | None]:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return name, None if "/$defs/" in schema["$ref"] else name
    if "const" in schema:
        return json.dumps(schema["const"]), None
    if "enum" in schema:
        return " | ".join(json.dumps(each) for each in schema["enum"]), None
    variants = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if variants and len(variants) > MOST_VARIANTS:
        return f"one of {len(variants)} objects", None
    if variants:
        kinds = [_kind(each) for each in variants]
        leads = next((refers_to for _, refers_to in kinds if refers_to), None)
        return " | ".join(kind for kind, _ in kinds), leads
    if schema.get("type") == "array":
        kind, refers_to = _kind(schema.get("items", {}))
        return f"list of {kind}", refers_to
    if isinstance(schema.get("additionalProperties"), dict):
        kind, refers_to = _kind(schema["additionalProperties"])
        return f"object of {kind}", refers_to
    kind = str(schema.get("type", "any JSON"))
    return (f"{kind} ({schema['format']})" if "format" in schema else kind), None
