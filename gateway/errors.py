"""The only table from errors to HTTP statuses, and the one shape of an error's body."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import psycopg
from eventsourcing.persistence import InterfaceError, OperationalError
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, JsonValue, TypeAdapter
from starlette.exceptions import HTTPException

from domain.errors import (
    CommandReused,
    DomainError,
    InsufficientBalance,
    Invalid,
    NoCapacity,
    NotFound,
    SeveralProblems,
    StaleSegment,
    VersionConflict,
    WrongState,
)


class Unauthenticated(DomainError):
    """No valid API key came with the request."""

    code = "unauthenticated"


class Forbidden(DomainError):
    """The key is valid, and its role does not allow this."""

    code = "forbidden"


class TooLarge(DomainError):
    """The body is larger than what is accepted."""

    code = "too_large"


class NotYetVisible(DomainError):
    """The read models are behind the log, so that nobody can tell whether the thing exists."""

    code = "not_yet_visible"


STATUSES: dict[type[DomainError], HTTPStatus] = {
    Unauthenticated: HTTPStatus.UNAUTHORIZED,
    InsufficientBalance: HTTPStatus.PAYMENT_REQUIRED,
    Forbidden: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    WrongState: HTTPStatus.CONFLICT,
    NoCapacity: HTTPStatus.CONFLICT,
    CommandReused: HTTPStatus.CONFLICT,
    VersionConflict: HTTPStatus.CONFLICT,
    StaleSegment: HTTPStatus.CONFLICT,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Invalid: HTTPStatus.UNPROCESSABLE_ENTITY,
    SeveralProblems: HTTPStatus.UNPROCESSABLE_ENTITY,
    NotYetVisible: HTTPStatus.SERVICE_UNAVAILABLE,
}

FIGURES = TypeAdapter(dict[str, JsonValue])

STORE_UNREACHABLE = (OperationalError, InterfaceError, psycopg.OperationalError)

HEADERS: dict[HTTPStatus, dict[str, str]] = {
    HTTPStatus.UNAUTHORIZED: {"www-authenticate": "Bearer"},
    HTTPStatus.SERVICE_UNAVAILABLE: {"retry-after": "1"},
}


class FieldProblem(BaseModel):
    """What is wrong with one field of a form."""

    field: str = Field(examples=["hyperparameters.lora_r"])
    message: str = Field(examples=["Input should be greater than or equal to 1"])


class Problem(BaseModel):
    """Why a request was refused: a stable code and a sentence for a person."""

    code: str = Field(examples=["invalid"])
    message: str
    field: str | None = Field(default=None, description="The one field that it is about.")
    fields: list[FieldProblem] | None = Field(
        default=None, description="Every problem of a form at once."
    )
    figures: dict[str, JsonValue] | None = Field(
        default=None,
        description="The numbers in the message, for programs.",
        examples=[{"needed_micros": 1_250_000, "balance_micros": 300_000}],
    )


class ErrorAnswer(BaseModel):
    """The body of every answer that is no success."""

    error: Problem


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of a route that may answer with these statuses."""
    return {status: {"model": ErrorAnswer} for status in statuses}


def answer(status: int, problem: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The response for a problem."""
    return JSONResponse(
        ErrorAnswer(error=problem).model_dump(exclude_none=True),
        status,
        headers=HEADERS.get(HTTPStatus(status), {}) | dict(headers or {}),
    )


def install(app: FastAPI) -> None:
    """Make the application answer every error in this shape."""
    app.add_exception_handler(DomainError, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _http)
    for error in STORE_UNREACHABLE:
        app.add_exception_handler(error, _unavailable)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DomainError)
    status = next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
    return answer(status, _problem(error))


def _problem(error: DomainError) -> Problem:
    problem = Problem(
        code=error.code,
        message=error.message,
        field=error.field,
        figures=None if error.figures is None else FIGURES.validate_python(error.figures),
    )
    if isinstance(error, SeveralProblems):
        problem.fields = [
            FieldProblem(field=each.field or "", message=each.message) for each in error.problems
        ]
    return problem


async def _malformed(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = [
        FieldProblem(field=field_name(problem["loc"]), message=problem["msg"])
        for problem in error.errors()
    ]
    names = ", ".join(dict.fromkeys(problem.field for problem in problems))
    return answer(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        Problem(code=Invalid.code, message=f"not acceptable: {names}", fields=problems),
    )


def field_name(location: tuple[int | str, ...]) -> str:
    """The name of a field without the part of the request (body, query, ...) that held it."""
    return ".".join(str(part) for part in location[1:]) or str(location[0])


async def _http(request: Request, error: Exception) -> JSONResponse:
    """What the framework itself refuses: no such path or method, an unreadable body."""
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).name.lower()
    return answer(error.status_code, Problem(code=code, message=str(error.detail)), error.headers)


async def _unavailable(request: Request, error: Exception) -> JSONResponse:
    return answer(
        HTTPStatus.SERVICE_UNAVAILABLE,
        Problem(code="unavailable", message="the database cannot be reached now; try again soon"),
    )
