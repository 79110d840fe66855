"""ASGI middleware: a request ID, one log line, a limited body, and safe error responses."""

from __future__ import annotations

import logging
import time
from http import HTTPStatus
from uuid import uuid4

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.backend import Backend
from gateway.http.errors import Errors, Problem, RateLimited
from gateway.http.lockout import network_of
from gateway.http.origin import client_address
from infrastructure.process.metrics import HTTP_SECONDS

log = logging.getLogger("gateway")

PRIVATE = ("/api/", "/v1/")
"""Paths whose responses must not be cached."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

JSON_BYTES = 1024**2
"""Maximum size in bytes of a body in memory. Uploads are streamed and have their own limit."""


class Requests:
    """ASGI middleware. It generates request IDs itself, so that they are unique."""

    def __init__(
        self, app: ASGIApp, errors: Errors, streamed: frozenset[str], secret_below: tuple[str, ...]
    ) -> None:
        self._app = app
        self._errors = errors
        self._streamed = streamed
        self._secret_below = secret_below

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, started = str(uuid4()), time.monotonic()
        streamed = scope["path"] in self._streamed
        scope.setdefault("state", {}).update(request_id=request_id, streamed=streamed)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                if scope["app"].state.stops:
                    headers["connection"] = "close"
                for name, value in scope["state"].get("limit_headers", {}).items():
                    headers.setdefault(name, value)
                if scope["path"].startswith(PRIVATE):
                    headers["cache-control"] = "no-store"
            await send(message)

        bounded = receive if streamed else _bounded(receive, JSON_BYTES)
        try:
            self._admit(scope)
            await self._app(scope, bounded, send_with_id)
        except RateLimited as error:
            answer = await self._errors.refused(Request(scope), error)
            await answer(scope, receive, send_with_id)
        except ClientDisconnect:
            log.info("request %s: the client disconnected", request_id)
        except Exception:
            log.exception("request %s failed", request_id)
            if status:
                raise  # the response has started, so only a closed connection signals the failure
            await self._failure(Request(scope), request_id)(scope, receive, send_with_id)
        seconds, path = time.monotonic() - started, self._logged(scope["path"])
        log.info(
            "%s %s %s %s %.0f ms",
            *(request_id, scope["method"], path, status or "-", seconds * 1000),
            extra={
                "request_id": request_id,
                "method": scope["method"],
                "path": path,
                "status": status,
                "duration_ms": round(seconds * 1000),
            },
        )
        HTTP_SECONDS.labels(_method(scope), _route(scope), status or "none").observe(seconds)

    def _admit(self, scope: Scope) -> None:
        connection = HTTPConnection(scope)
        backend: Backend = connection.app.state.backend
        network = network_of(client_address(connection))
        backend.quotas.rates.take("address_requests", network)

    def _logged(self, path: str) -> str:
        for prefix in self._secret_below:
            if path.startswith(prefix):
                return f"{prefix}…"
        return path

    def _failure(self, request: Request, request_id: str) -> ASGIApp:
        message = f"Internal error. Try again, or send your operator the request ID {request_id}."
        problem = Problem(code="internal_error", message=message)
        return self._errors.answer(request, HTTPStatus.INTERNAL_SERVER_ERROR, problem)


def _route(scope: Scope) -> str:
    """Return the route's path below its router, with parameters' names: few labels."""
    paths: dict[object, str] = scope["app"].state.paths
    return paths.get(scope.get("endpoint"), "unmatched")


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in METHODS else "other"


def _bounded(receive: Receive, limit: int) -> Receive:
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise HTTPException(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The body is larger than {limit:,} bytes. Shorten it.",
            )
        return message

    return bounded
