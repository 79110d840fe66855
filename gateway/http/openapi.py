"""The OpenAPI document: what the routes say, with every status that they can answer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from gateway.events.openapi_schemas import add_event_schemas
from gateway.http import openai_errors
from gateway.http.errors import STATUSES, WHY, ErrorAnswer, Problem
from gateway.http.openai_errors import OpenAIErrorAnswer
from gateway.http.openapi_examples import example_of

V1_PREFIX = "/v1"
"""Prefix of the OpenAI-compatible API."""

TITLE, SUMMARY = "EcoLink", "Fine-tuning jobs, metered by the minute."

DESCRIPTION = """\
Every call but `/healthz` needs an API key: `Authorization: Bearer eco_...`. Amounts are in
millionths of a dollar, times in UTC, ids of jobs `ftjob-` and a UUID in hexadecimal.

Commands are safe to repeat with the same `Idempotency-Key`. Every answer has an `x-request-id`; an
error names a stable `code`, a sentence, and the fields that it is about. Lists take `after` and
`limit`, and say with `has_more` whether to go on after the last of what came.

`/v1` is what the `openai` package speaks, with its shapes of errors and lists.
"""

UNREADABLE, UNACCEPTABLE = HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY

ALWAYS = {
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
}
"""Of every operation that needs a key."""

OF_BODIES = {UNREADABLE, HTTPStatus.REQUEST_ENTITY_TOO_LARGE}

FURTHER: dict[tuple[str, str], set[HTTPStatus]] = {
    ("post", "/v1/fine_tuning/jobs"): {HTTPStatus.PAYMENT_REQUIRED, HTTPStatus.NOT_FOUND},
    ("post", "/v1/fine_tuning/jobs/{job_id}/resume"): {HTTPStatus.PAYMENT_REQUIRED},
    ("delete", "/v1/models/{model}"): {HTTPStatus.FORBIDDEN},
    ("post", "/v1/chat/completions"): {HTTPStatus.NOT_FOUND},
}
"""What single operations of /v1 answer besides; the native ones say so beside their code."""


def operation_id(route: APIRoute) -> str:
    """The name of a route in the document: that of its function."""
    return f"v1_{route.name}" if route.path.startswith(V1_PREFIX) else route.name


def install(app: FastAPI) -> None:
    """Have the application serve this document."""
    app.openapi = partial(document, app)  # type: ignore[method-assign]


def document(app: FastAPI) -> dict[str, Any]:
    """The document, made once."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=TITLE,
            summary=SUMMARY,
            description=DESCRIPTION,
            version=app.version,
            routes=app.routes,
        )
        for model in (ErrorAnswer, OpenAIErrorAnswer):
            _add_schema(made, model.model_json_schema(ref_template=REF))
        add_event_schemas(made["components"]["schemas"])
        for method, path, operation in operations(made):
            _complete(method, path, operation)
            _exemplify(operation, made["components"]["schemas"])
        _prune(made)
        app.openapi_schema = made
    return app.openapi_schema


REF = "#/components/schemas/{model}"


def operations(made: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of every operation of a document."""
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def _add_schema(made: dict[str, Any], schema: dict[str, Any]) -> None:
    known = made["components"]["schemas"]
    for name, part in schema.pop("$defs", {}).items():
        known.setdefault(name, part)
    known.setdefault(schema["title"], schema)


def _complete(method: str, path: str, operation: dict[str, Any]) -> None:
    """Name the statuses that come from around a handler: keys, bodies, parameters, the database."""
    answers, native = operation["responses"], not path.startswith(V1_PREFIX)
    answers.pop(str(int(UNACCEPTABLE)), None)
    possible = {HTTPStatus(int(status)) for status in answers if int(status) >= UNREADABLE}
    if "security" in operation:
        possible |= ALWAYS
    if "requestBody" in operation:
        possible |= OF_BODIES | {UNACCEPTABLE}
    if operation.get("parameters"):
        possible.add(UNACCEPTABLE)
    if not native:
        possible |= FURTHER.get((method, path), set())
        if "{" in path or any(each["name"] == "after" for each in operation.get("parameters", [])):
            possible.add(HTTPStatus.NOT_FOUND)
        if method != "get":
            possible.add(HTTPStatus.CONFLICT)
        if UNACCEPTABLE in possible:
            possible = possible - {UNACCEPTABLE} | {UNREADABLE}
    for status in sorted(possible):
        answers.pop(str(int(status)), None)
        answers[str(int(status))] = {
            "description": WHY[status],
            "content": {"application/json": _error(status, native=native)},
        }


def _error(status: HTTPStatus, *, native: bool) -> dict[str, Any]:
    """Schema and example of an error's body."""
    code = next((kind.code for kind, each in STATUSES.items() if each is status), "")
    problem = Problem(code=code or status.name.lower(), message=WHY[status].rstrip("."))
    if native:
        shape, example = ErrorAnswer, {"error": problem.model_dump(exclude_none=True)}
    else:
        shape, example = OpenAIErrorAnswer, openai_errors.body(status, problem)
    return {"schema": {"$ref": REF.format(model=shape.__name__)}, "example": example}


def _exemplify(operation: dict[str, Any], components: dict[str, Any]) -> None:
    """Give every JSON body an example."""
    bodies = [operation.get("requestBody", {})]
    bodies += [answer for status, answer in operation["responses"].items() if status < "400"]
    for body in bodies:
        content = body.get("content", {}).get("application/json")
        if content is not None and content.get("schema"):
            content.setdefault("example", example_of(content["schema"], components))


def _prune(made: dict[str, Any]) -> None:
    """Drop the schemas that nothing refers to: those of FastAPI's own shape of a 422."""
    components = made["components"]["schemas"]
    while unused := components.keys() - set(_references(made)):
        for name in unused:
            del components[name]


def _references(value: Any) -> Iterator[str]:
    """Names of the schemas that a part of the document refers to."""
    if isinstance(value, list):
        for each in value:
            yield from _references(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key == "$ref":
                yield each.removeprefix(REF.format(model="")).partition("/")[0]
            else:
                yield from _references(each)
