"""Route classes of the two APIs, which declare the error statuses of shared code."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi.dependencies.utils import get_flat_params
from fastapi.routing import APIRoute

from gateway.http import errors, openai_errors
from gateway.http.errors import Responses

ALWAYS = {
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
}
"""Error statuses of every operation that requires an API key."""

OF_BODIES = {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE}


class Operation(APIRoute):
    """A route of the native API. `responses` needs only the error statuses of its handler."""

    refusals = staticmethod(errors.refusals)
    invalid = HTTPStatus.UNPROCESSABLE_ENTITY

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        responses: Responses | None = None,
        **options: Any,
    ) -> None:
        declared = responses or {}
        refused = {int(status) for status in declared if int(status) >= 400}
        answers = {status: declared[status] for status in declared if int(status) < 400}
        super().__init__(path, endpoint, responses=answers, **options)
        # The shared statuses depend on the analysis of the endpoint.
        self.responses |= self.refusals(*sorted(refused | self.shared_statuses()))

    def shared_statuses(self) -> set[HTTPStatus]:
        """Return the error statuses of authentication, the body and the parameters."""
        statuses = set(ALWAYS)
        has_body = self.body_field is not None or "requestBody" in (self.openapi_extra or {})
        if has_body:
            statuses |= OF_BODIES
        if has_body or get_flat_params(self.dependant):
            statuses.add(self.invalid)
        return statuses


class OpenAIOperation(Operation):
    """A route of the OpenAI-compatible API."""

    refusals = staticmethod(openai_errors.refusals)
    invalid = HTTPStatus.BAD_REQUEST

    def shared_statuses(self) -> set[HTTPStatus]:
        """Return the shared statuses, 404 for an ID in the request, and 409 for a command."""
        statuses = super().shared_statuses()
        names = {field.name for field in get_flat_params(self.dependant)}
        if "{" in self.path or "after" in names:
            statuses.add(HTTPStatus.NOT_FOUND)
        if self.methods != {"GET"}:
            statuses.add(HTTPStatus.CONFLICT)
        return statuses
