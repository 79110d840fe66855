"""The OpenAPI document, including every status that a route can return."""

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
Every call except `/healthz` needs an API key: `Authorization: Bearer eco_...`. Amounts are in
millionths of a dollar, times in UTC. A job's ID is `ftjob-` and a UUID in hexadecimal.

Repeating a command with the same `Idempotency-Key` is safe. Every response has an `x-request-id`.
An error has a stable `code`, a sentence, and the fields with problems. Lists take `after` and
`limit`. If `has_more` is true, another page follows.

`/v1` is compatible with the `openai` package, including its formats of errors and lists.
"""

UNREADABLE, UNACCEPTABLE = HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY

ALWAYS = {
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
}
"""Error statuses of every operation that requires an API key."""

OF_BODIES = {UNREADABLE, HTTPStatus.REQUEST_ENTITY_TOO_LARGE}

FURTHER: dict[tuple[str, str], set[HTTPStatus]] = {
    ("post", "/v1/fine_tuning/jobs"): {HTTPStatus.PAYMENT_REQUIRED, HTTPStatus.NOT_FOUND},
    ("post", "/v1/fine_tuning/jobs/{job_id}/resume"): {HTTPStatus.PAYMENT_REQUIRED},
    ("delete", "/v1/models/{model}"): {HTTPStatus.FORBIDDEN},
    ("post", "/v1/chat/completions"): {HTTPStatus.NOT_FOUND},
}
"""Further error statuses of some /v1 operations. Native routes declare their own."""


def operation_id(route: APIRoute) -> str:
    """Return the operation ID of a route: the name of its function."""
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
    """Yield the method, path and description of every operation."""
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def _add_schema(made: dict[str, Any], schema: dict[str, Any]) -> None:
    known = made["components"]["schemas"]
    for name, part in schema.pop("$defs", {}).items():
        known.setdefault(name, part)
    known.setdefault(schema["title"], schema)


def _complete(method: str, path: str, operation: dict[str, Any]) -> None:
    """Add the error statuses of shared code: authentication, body, parameters and database."""
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
    """Return the schema and an example of an error's body."""
    code = next((kind.code for kind, each in STATUSES.items() if each is status), "")
    problem = Problem(code=code or status.name.lower(), message=WHY[status].rstrip("."))
    if native:
        shape, example = ErrorAnswer, {"error": problem.model_dump(exclude_none=True)}
    else:
        shape, example = OpenAIErrorAnswer, openai_errors.body(status, problem)
    return {"schema": {"$ref": REF.format(model=shape.__name__)}, "example": example}


def _exemplify(operation: dict[str, Any], components: dict[str, Any]) -> None:
    """Add an example to every JSON body."""
    bodies = [operation.get("requestBody", {})]
    bodies += [answer for status, answer in operation["responses"].items() if status < "400"]
    for body in bodies:
        content = body.get("content", {}).get("application/json")
        if content is not None and content.get("schema"):
            content.setdefault("example", example_of(content["schema"], components))


def _prune(made: dict[str, Any]) -> None:
    """Remove unused schemas, such as FastAPI's own schema of a 422."""
    components = made["components"]["schemas"]
    while unused := components.keys() - set(_references(made)):
        for name in unused:
            del components[name]


def _references(value: Any) -> Iterator[str]:
    """Return the names of the schemas that a part of the document refers to."""
    if isinstance(value, list):
        for each in value:
            yield from _references(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key == "$ref":
                yield each.removeprefix(REF.format(model="")).partition("/")[0]
            else:
                yield from _references(each)
