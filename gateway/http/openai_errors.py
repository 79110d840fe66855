"""OpenAI's error format: a message, a type, a parameter and a stable code."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, JsonValue

from domain.core.errors import VersionConflict
from gateway.http.errors import Problem, QuotaExceeded, Responses, documented
from gateway.http.openai_vocabulary import parameter

TYPES: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.PAYMENT_REQUIRED: "insufficient_quota",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.CONFLICT: "conflict_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}
"""Error types of statuses that are neither `invalid_request_error` nor a server error."""

PASSING = frozenset({VersionConflict.code})
"""Codes of temporary conflicts. Clients must not retry any other conflict."""

PATH_SHOWN = 200
"""Characters of a request's path that an error repeats."""


class OpenAIError(BaseModel):
    """The error object of the `openai` package."""

    message: str
    type: str
    param: str | None
    code: str | None
    figures: dict[str, JsonValue] | None = Field(
        default=None,
        description="Numbers of the message, for programs to read. OpenAI's API has no such field.",
    )


class OpenAIErrorResponse(BaseModel):
    """The body of every error response under /v1."""

    error: OpenAIError


def answer(
    request: Request, status: int, problem: Problem, headers: Mapping[str, str]
) -> JSONResponse:
    """Return the response for a problem. A 422 becomes a 400, and a 405 a 404, as of a route that
    does not exist.
    """
    unknown = status == HTTPStatus.NOT_FOUND and "endpoint" not in request.scope
    if unknown or status == HTTPStatus.METHOD_NOT_ALLOWED:
        status, route = HTTPStatus.NOT_FOUND, f"{request.method} {request.url.path[:PATH_SHOWN]}"
        message = f"{route} is not supported. The page /api/docs lists the supported routes."
        problem = Problem(code="not_supported", message=message)
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        status = HTTPStatus.BAD_REQUEST
    further = {}
    stays = status == HTTPStatus.CONFLICT and problem.code not in PASSING
    if stays or problem.code == QuotaExceeded.code:
        further["x-should-retry"] = "false"
    return JSONResponse(body(status, problem), status, headers={**headers, **further})


def refusals(*statuses: int) -> Responses:
    """Return the OpenAPI responses of the given error statuses under /v1."""
    return {status: documented(status, OpenAIErrorResponse, body) for status in statuses}


def body(status: int, problem: Problem) -> dict[str, JsonValue]:
    """Return the error object of a problem. The parameter is the first invalid field."""
    problems = [(parameter(each.field), each.message) for each in problem.fields or ()]
    first = problem.field or (problem.fields[0].field if problem.fields else None)
    error = OpenAIError(
        message="; ".join(f"{field}: {why}" for field, why in problems) or problem.message,
        type=TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
        param=None if first is None else parameter(first),
        code=problem.code,
        figures=problem.figures,
    )
    return {"error": error.model_dump(exclude={"figures"} if error.figures is None else None)}
