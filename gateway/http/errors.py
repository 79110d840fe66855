"""The mapping of errors to HTTP statuses, and the schema of an error response."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

import psycopg
from eventsourcing.persistence import InterfaceError, OperationalError
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from obstore.exceptions import BaseError
from pydantic import BaseModel, Field, JsonValue, TypeAdapter
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from domain.core.errors import (
    CommandReused,
    DomainError,
    InsufficientBalance,
    Invalid,
    NoCapacity,
    NotFound,
    SeveralProblems,
    SpendingLimitReached,
    StaleSegment,
    Suspended,
    UpgradeUnfinished,
    VersionConflict,
    WrongState,
)
from domain.core.event_format import NewerEvent
from gateway.http.field_names import refused_fields
from infrastructure.payments.provider import ProviderUnavailable, RefundRefused
from infrastructure.postgres.event_recorder import is_disk_full

log = logging.getLogger("gateway")


class Unauthenticated(DomainError):
    """The request has no valid API key."""

    code = "unauthenticated"


class Forbidden(DomainError):
    """The role of the API key does not allow the request."""

    code = "forbidden"


class MissingScope(Forbidden):
    """The API key does not have the scope that the request needs. `figures` names it."""

    code = "missing_scope"


class TooLarge(DomainError):
    """The body is too large."""

    code = "too_large"


class Overloaded(DomainError):
    """The queue is full. Try again later."""

    code = "overloaded"


class RateLimited(DomainError):
    """A rate limit is exceeded. Try again later."""

    code = "rate_limit_exceeded"

    def __init__(
        self,
        message: str,
        retry_seconds: int | None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(message)
        self.retry_seconds, self.headers = retry_seconds, headers


class QuotaExceeded(RateLimited):
    """A quota of the account is exceeded. The message says how to free some of it."""

    code = "quota_exceeded"

    def __init__(self, message: str, headers: Mapping[str, str]) -> None:
        super().__init__(message, None, headers)


class NotYetVisible(DomainError):
    """The read models lag behind the log, so the object may not be visible yet."""

    code = "not_yet_visible"

    def __init__(self) -> None:
        super().__init__("This change is not visible yet. Try again in a second.")


class NotServing(DomainError):
    """Serving is unavailable, or the model is still loading."""

    code = "not_serving"


class NoDiskSpace(DomainError):
    """The disk of EcoLink's home is nearly full."""

    code = "no_disk_space"


class HubUnavailable(DomainError):
    """The hub does not respond. Try again later."""

    code = "hub_unavailable"


class TookTooLong(DomainError):
    """The request needs more time than one request may take."""

    code = "took_too_long"


STATUSES: dict[type[DomainError], HTTPStatus] = {
    Unauthenticated: HTTPStatus.UNAUTHORIZED,
    InsufficientBalance: HTTPStatus.PAYMENT_REQUIRED,
    SpendingLimitReached: HTTPStatus.PAYMENT_REQUIRED,
    Forbidden: HTTPStatus.FORBIDDEN,
    MissingScope: HTTPStatus.FORBIDDEN,
    Suspended: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    WrongState: HTTPStatus.CONFLICT,
    NoCapacity: HTTPStatus.CONFLICT,
    RefundRefused: HTTPStatus.CONFLICT,
    CommandReused: HTTPStatus.CONFLICT,
    VersionConflict: HTTPStatus.CONFLICT,
    StaleSegment: HTTPStatus.CONFLICT,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Invalid: HTTPStatus.UNPROCESSABLE_ENTITY,
    SeveralProblems: HTTPStatus.UNPROCESSABLE_ENTITY,
    Overloaded: HTTPStatus.TOO_MANY_REQUESTS,
    RateLimited: HTTPStatus.TOO_MANY_REQUESTS,
    NotYetVisible: HTTPStatus.SERVICE_UNAVAILABLE,
    NotServing: HTTPStatus.SERVICE_UNAVAILABLE,
    NoDiskSpace: HTTPStatus.SERVICE_UNAVAILABLE,
    HubUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    TookTooLong: HTTPStatus.SERVICE_UNAVAILABLE,
    ProviderUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    UpgradeUnfinished: HTTPStatus.SERVICE_UNAVAILABLE,
}

FIGURES = TypeAdapter(dict[str, JsonValue])

STORE_UNREACHABLE = (OperationalError, InterfaceError, psycopg.OperationalError)

LOADING_SECONDS = 5
"""Retry-After while a model is loading, in seconds."""

UPGRADE_SECONDS = 60
"""Retry-After while an upgrade is not finished, in seconds."""

HEADERS: dict[HTTPStatus, dict[str, str]] = {
    HTTPStatus.UNAUTHORIZED: {"www-authenticate": "Bearer"},
    HTTPStatus.SERVICE_UNAVAILABLE: {"retry-after": "1"},
}


class FieldProblem(BaseModel):
    """A validation error of one field."""

    field: str = Field(examples=["hyperparameters.lora_r"])
    message: str = Field(examples=["Input should be greater than or equal to 1"])


class Problem(BaseModel):
    """The reason for an error response: a stable code and a human-readable sentence."""

    code: str = Field(examples=["invalid"])
    message: str
    field: str | None = Field(default=None, description="Name of the invalid field.")
    fields: list[FieldProblem] | None = Field(
        default=None, description="Validation errors of all invalid fields."
    )
    figures: dict[str, JsonValue] | None = Field(
        default=None,
        description="Numbers of the message, for programs to read.",
        examples=[{"needed_micros": 1_250_000, "balance_micros": 300_000}],
    )


class ErrorResponse(BaseModel):
    """The body of every error response."""

    error: Problem


WHY: dict[int, str] = {
    HTTPStatus.BAD_REQUEST: "The server cannot parse the request.",
    HTTPStatus.UNAUTHORIZED: "The request has no valid API key.",
    HTTPStatus.PAYMENT_REQUIRED: "The balance is too low, or a spending limit is "
    "reached. `figures` has the amounts.",
    HTTPStatus.FORBIDDEN: "The scopes or the role of this API key do not permit the request, or "
    "the account is suspended.",
    HTTPStatus.NOT_FOUND: "The object does not exist, or it belongs to another account.",
    HTTPStatus.CONFLICT: "The current state does not permit the request, or another request "
    "used the same idempotency key. The message says what to do.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is too large.",
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: "The range is outside the file.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "A value in the request is invalid. `fields` lists all "
    "validation errors.",
    HTTPStatus.TOO_MANY_REQUESTS: "A rate limit or quota is exceeded. `x-ratelimit-*` headers"
    " name the limit. Try again after `Retry-After`. Without that header, a retry cannot succeed.",
    HTTPStatus.SERVICE_UNAVAILABLE: "A service is unavailable or lags behind. Try again after"
    " `Retry-After`.",
}
"""Descriptions of the error statuses in the OpenAPI document."""


Responses = dict[int | str, dict[str, Any]]
"""OpenAPI responses by status, for the `responses` of a route."""


REF_TEMPLATE = "#/components/schemas/{model}"


def refusals(*statuses: int) -> Responses:
    """Return the OpenAPI responses of the given error statuses."""
    return {status: documented(status, ErrorResponse, _body) for status in statuses}


def documented(
    status: int, schema: type[BaseModel], body: Callable[[int, Problem], Any]
) -> dict[str, Any]:
    """Return the OpenAPI response of an error status, with an example.

    It refers to a schema that `gateway.http.openapi` adds to the document. With `model`, FastAPI
    would build a validator for each status of each route, which takes half a second at start.
    """
    codes = (kind.code for kind, each in STATUSES.items() if each == status)
    code = next(codes, HTTPStatus(status).name.lower())
    example = body(status, Problem(code=code, message=WHY[status].rstrip(".")))
    reference = {"$ref": REF_TEMPLATE.format(model=schema.__name__)}
    content = {"application/json": {"example": example, "schema": reference}}
    return {"description": WHY[status], "content": content}


Shape = Callable[[Request, int, Problem, Mapping[str, str]], Response]
"""A function that creates an error response from request, status, problem and headers."""


def answer(
    request: Request, status: int, problem: Problem, headers: Mapping[str, str]
) -> JSONResponse:
    """Return the error response of the native API."""
    return JSONResponse(_body(status, problem), status, headers=dict(headers))


def _body(status: int, problem: Problem) -> dict[str, Any]:
    return ErrorResponse(error=problem).model_dump(exclude_none=True)


class Errors:
    """Exception handlers. The path of a request selects the format of its error response."""

    def __init__(
        self, shapes: Mapping[str, Shape], otherwise: Shape, recognize: Callable[[Request], None]
    ) -> None:
        """Set the formats by first path segment. `recognize` finds the user on unknown paths."""
        self._shapes, self._otherwise, self._recognize = shapes, otherwise, recognize

    def install(self, app: FastAPI) -> None:
        app.add_exception_handler(DomainError, self.refused)
        app.add_exception_handler(RequestValidationError, self._malformed)
        app.add_exception_handler(HTTPException, self._http)
        for error in (*STORE_UNREACHABLE, BaseError):
            app.add_exception_handler(error, self._unavailable)
        app.add_exception_handler(NewerEvent, self._outdated)

    async def _outdated(self, request: Request, error: Exception) -> Response:
        """Refuse a request that this process is too old for. It exits within seconds."""
        log.warning("this gateway is too old: %s", error)
        message = "EcoLink was just upgraded, and this process is ending. Try again soon."
        problem = Problem(code="unavailable", message=message)
        return self.answer(request, HTTPStatus.SERVICE_UNAVAILABLE, problem)

    def answer(
        self,
        request: Request,
        status: int,
        problem: Problem,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Return the error response for a problem."""
        return self._shape_of(request)(
            request, status, problem, HEADERS.get(HTTPStatus(status), {}) | dict(headers or {})
        )

    def _shape_of(self, request: Request) -> Shape:
        top = "/" + request.url.path.split("/")[1]
        return self._shapes.get(top, self._otherwise)

    async def refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, DomainError)
        seconds = retry_after(error)
        later = {} if seconds is None else {"retry-after": str(seconds)}
        if isinstance(error, RateLimited):
            later |= error.headers
        return self.answer(request, status_of(error), _problem(error), later)

    async def _malformed(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        problems = [
            FieldProblem(field=name, message=message)
            for name, message in refused_fields(error).items()
        ]
        names = ", ".join(problem.field for problem in problems)
        message = (
            f"The field {names} is invalid. Correct its value."
            if len(problems) == 1
            else f"These fields are invalid: {names}. Correct their values."
        )
        problem = Problem(code=Invalid.code, message=message, fields=problems)
        return self.answer(request, HTTPStatus.UNPROCESSABLE_ENTITY, problem)

    async def _http(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        problem = Problem(
            code=HTTPStatus(error.status_code).name.lower(), message=str(error.detail)
        )
        if self._shape_of(request) is self._otherwise:
            await run_in_threadpool(self._recognize, request)
        return self.answer(request, error.status_code, problem, error.headers)

    async def _unavailable(self, request: Request, error: Exception) -> Response:
        what = "artifact store" if isinstance(error, BaseError) else "database"
        log.warning("the %s is unreachable: %s", what, error)
        if is_disk_full(error):
            why = "has no disk space left. Ask your operator, then try again."
        else:
            why = "is unreachable. Try again soon."
        problem = Problem(code="unavailable", message=f"The {what} {why}")
        return self.answer(request, HTTPStatus.SERVICE_UNAVAILABLE, problem)


def status_of(error: DomainError) -> HTTPStatus:
    """Return the HTTP status of an error."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def retry_after(error: DomainError) -> int | None:
    """Return the seconds until a retry can succeed; None if it cannot."""
    match error:
        case NotServing():
            return LOADING_SECONDS
        case RateLimited():
            return error.retry_seconds
        case Overloaded():
            return 1
        case UpgradeUnfinished():
            return UPGRADE_SECONDS
        case _:
            pass
    named = HEADERS.get(status_of(error), {}).get("retry-after")
    return None if named is None else int(named)


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
