"""The OpenAPI document, with an example of each JSON body."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from gateway.events.openapi_schemas import add_event_schemas
from gateway.http.access import SCHEME
from gateway.http.errors import REF_TEMPLATE, ErrorResponse
from gateway.http.openai_errors import OpenAIErrorResponse
from gateway.http.permissions import declared_routes

Schema = dict[str, Any]

V1_PREFIX = "/v1"
"""Prefix of the OpenAI-compatible API."""

TITLE, SUMMARY = "EcoLink", "Fine-tuning jobs, metered by the minute."

DESCRIPTION = """\
Every call except `/healthz` needs an API key: `Authorization: Bearer eco_...`. Amounts are in
millionths of a dollar, times in UTC. A job's ID is `ftjob-` and a UUID in hexadecimal.

Repeating a command with the same `Idempotency-Key` is safe. Every response has an `x-request-id`.
An API key has scopes. The `security` of an operation names the scope that it requires. A key
without that scope gets a 403 with the code `missing_scope`. If an operator has suspended the
account, each operation with another scope than `read` gets a 403 with the code `account_suspended`.

An error has a stable `code`, a sentence, and the fields with problems. Lists take `after` and
`limit`. If `has_more` is true, another page follows.

`/v1` is compatible with the `openai` package, including its formats of errors and lists.
"""


def operation_id(route: APIRoute) -> str:
    """Return the operation ID of a route, which is the name of its function."""
    return f"v1_{route.name}" if route.path.startswith(V1_PREFIX) else route.name


def install(app: FastAPI) -> None:
    """Replace FastAPI's OpenAPI document with this one."""
    app.openapi = partial(document, app)  # type: ignore[method-assign]


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, which is built once and cached."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=TITLE,
            summary=SUMMARY,
            description=DESCRIPTION,
            version=app.version,
            routes=app.routes,
        )
        complete(made)
        add_scopes(made, app)
        app.openapi_schema = made
    return app.openapi_schema


def operations(made: Schema) -> Iterator[tuple[str, str, Schema]]:
    """Yield the method, path and description of every operation."""
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def add_scopes(made: Schema, app: FastAPI) -> None:
    """Name the scopes that each operation requires, as OpenAPI 3.1 does for roles."""
    for path, method, permission in declared_routes(app):
        operation = made["paths"].get(path, {}).get(method.lower())
        if operation is not None and permission.scopes:
            operation["security"] = [{SCHEME: [each.value for each in permission.scopes]}]


def complete(made: Schema) -> None:
    """Change the parts of a document that no option of FastAPI can change.

    FastAPI adds its own 422 to each /v1 operation, drops null values, has no components for the
    schemas of errors and events, and does not compose the example of a body from the examples of
    its fields.
    """
    components = made["components"]["schemas"]
    add_error_schemas(components)
    add_event_schemas(components)
    for _, path, operation in operations(made):
        answers = operation["responses"]
        if path.startswith(V1_PREFIX):
            answers.pop("422", None)
            for status in (each for each in answers if each >= "400"):
                error = answers[status]["content"]["application/json"]["example"]["error"]
                error.setdefault("param", None)
        for body in (operation.get("requestBody", {}), *answers.values()):
            content = body.get("content", {}).get("application/json", {})
            if content.get("schema"):
                content.setdefault("example", example_of(content["schema"], components))
    for of_fastapi in ("HTTPValidationError", "ValidationError"):
        components.pop(of_fastapi, None)


def add_error_schemas(components: Schema) -> None:
    """Add the schemas of error responses, which the operations refer to."""
    for answer in (ErrorResponse, OpenAIErrorResponse):
        schema = answer.model_json_schema(mode="serialization", ref_template=REF_TEMPLATE)
        components.update(schema.pop("$defs"))
        components[answer.__name__] = schema


BY_TYPE = {"boolean": False, "integer": 1, "number": 1.0}
BY_FORMAT = {
    "uuid": "9b2d1c9e-6d1f-4a53-9a3e-2f1c5d7e8a90",
    "date-time": "2026-11-25T16:20:00Z",
    "date": "2026-11-25",
    "binary": "",
}


def example_of(schema: Schema, components: Schema, name: str = "") -> Any:
    """Return an example of a schema, composed of the examples of its fields.

    `name` is the name of a field. It is the example of a string that has no other example.
    """
    if "$ref" in schema:
        schema = components[schema["$ref"].rpartition("/")[2]] | schema
    if "examples" in schema:
        return schema["examples"][0]
    if "const" in schema:
        return schema["const"]
    if schema.get("default") is not None:
        return schema["default"]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return example_of(schema["anyOf"][0], components, name)
    match schema.get("type"):
        case "object":
            fields = schema.get("properties", {})
            return {field: example_of(part, components, field) for field, part in fields.items()}
        case "array":
            item = example_of(schema["items"], components, name)
            return [] if item is None else [item]
        case "string":
            return BY_FORMAT.get(schema.get("format", ""), name.replace("_", " "))
        case kind:
            return BY_TYPE.get(kind or "")
