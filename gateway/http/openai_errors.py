"""Errors in OpenAI's shape: a message for a person, a type, the parameter, and a stable code."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, JsonValue

from domain.core.errors import VersionConflict
from gateway.http.errors import Problem, QuotaExceeded
from gateway.http.openai_vocabulary import parameter

TYPES: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.PAYMENT_REQUIRED: "insufficient_quota",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.CONFLICT: "conflict_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}
"""Of the statuses that are neither `invalid_request_error` nor a failure of the server."""

PASSING = frozenset({VersionConflict.code})
"""Conflicts that are over soon; of the others it is of no use that the client tries again."""


class OpenAIError(BaseModel):
    """What the `openai` package makes an exception of."""

    message: str
    type: str
    param: str | None
    code: str | None
    figures: dict[str, JsonValue] | None = None  # beyond OpenAI's: the numbers in the message


class OpenAIErrorAnswer(BaseModel):
    """The body of every answer under /v1 that is no success."""

    error: OpenAIError


def answer(
    request: Request, status: int, problem: Problem, headers: Mapping[str, str]
) -> JSONResponse:
    """The response for a problem; what is not acceptable is a 400 here."""
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        status = HTTPStatus.BAD_REQUEST
    further = {}
    stays = status == HTTPStatus.CONFLICT and problem.code not in PASSING
    if stays or problem.code == QuotaExceeded.code:
        further["x-should-retry"] = "false"
    return JSONResponse(body(status, problem), status, headers={**headers, **further})


def body(status: int, problem: Problem) -> dict[str, JsonValue]:
    """What is said of a problem."""
    default = "server_error" if status >= 500 else "invalid_request_error"
    error = OpenAIError(
        message=_message(problem),
        type=TYPES.get(status, default),
        param=_parameter(problem),
        code=problem.code,
        figures=problem.figures,
    )
    return {"error": error.model_dump(exclude={"figures"} if error.figures is None else None)}


def _parameter(problem: Problem) -> str | None:
    """The first field that is wrong, by OpenAI's name for it."""
    field = problem.field or (problem.fields[0].field if problem.fields else None)
    return None if field is None else parameter(field)


def _message(problem: Problem) -> str:
    """One sentence; of a form with several problems, all of them, each with its field."""
    if not problem.fields:
        return problem.message
    named = [(parameter(each.field), each.message) for each in problem.fields]
    return "; ".join(f"{field}: {message}" for field, message in named)
