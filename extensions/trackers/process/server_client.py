"""Requests to the HTTP API of a tracker, with limits on time and size."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import httpx

from domain.core.errors import Invalid
from domain.core.target import TargetPolicy
from extensions.trackers.connections import Server
from extensions.trackers.process.tracker import TrackerFailure
from infrastructure.http.guarded import GuardedTransport, Refused, printable
from infrastructure.http.retry_after import requested_delay
from infrastructure.process.code_version import package_version

log = logging.getLogger("trackers")

TOTAL_SECONDS = 30.0
"""Time of one request, from the look-up of the host name to the end of the response."""

MOST_BYTES = 2**20
"""Largest response that EcoLink reads."""

SHOWN_CHARACTERS = 300
LONGEST_DELAY = timedelta(hours=1)
"""Longest delay that a server can request with `Retry-After`."""


class ServerClient:
    """A server of an account, or of the operator. It follows no redirects."""

    def __init__(
        self, title: str, server: Server, policy: TargetPolicy, transport: GuardedTransport
    ) -> None:
        self.url, self.identity = server.url.rstrip("/"), server.identity
        self._is_private = server.of_operator
        self._title, self._policy, self._transport = title, policy, transport
        self._auth = _auth(server)

    async def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send JSON, and return the response. Raise TrackerFailure if there is none."""
        try:
            self._policy.require_url(self.url)  # the operator may have changed the policy
        except Invalid:
            raise TrackerFailure(
                f"The operator does not permit the URL of {self._title}. Change it."
            ) from None
        headers = {
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": f"EcoLink/{package_version()} (trackers)",
        }
        try:
            url = httpx.URL(f"{self.url}{path}", params=query) if query else f"{self.url}{path}"
            request = httpx.Request(method, url, headers=headers, json=body)
            if self._auth is not None:
                request.headers["authorization"] = self._auth
            async with asyncio.timeout(TOTAL_SECONDS):
                response = await self._transport.handle_async_request(request)
                try:
                    content = await self._content(response)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise TrackerFailure(
                f"{self._title} did not respond within {TOTAL_SECONDS:.0f} seconds."
            ) from None
        except (Refused, OSError, httpx.HTTPError, httpx.InvalidURL) as error:
            why = printable(str(error) or type(error).__name__, SHOWN_CHARACTERS).rstrip(".")
            log.info("%s is not available: %s", self._title, why)
            if self._is_private:  # the error may name the operator's server
                why = "ask your operator"
            raise TrackerFailure(f"{self._title} is not available: {why}.") from error
        reply = Reply(self._title, response.status_code, content, _delay(response))
        reply.shows_message = not self._is_private
        return reply

    async def _content(self, response: httpx.Response) -> bytes:
        content = b""
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > MOST_BYTES:
                raise TrackerFailure(
                    f"The response of {self._title} is larger than {MOST_BYTES:,} bytes."
                )
        return content


class Reply:
    """A complete response."""

    shows_message = True
    """False if the message of an error is not for account holders."""

    def __init__(
        self, title: str, status: int, content: bytes, retry_after: timedelta | None
    ) -> None:
        self.status = status
        self._title, self._content, self._retry_after = title, content, retry_after

    @property
    def document(self) -> dict[str, Any]:
        """The JSON object of a success. Raise TrackerFailure for any other response."""
        found = self._parsed()
        if not 200 <= self.status < 300:
            raise self.failure()
        if found is None:
            raise TrackerFailure(
                f"The response of {self._title} is not a JSON object. Check the URL."
            )
        return found

    @property
    def error_code(self) -> str | None:
        """The code of MLflow's errors, such as `RESOURCE_DOES_NOT_EXIST`."""
        code = (self._parsed() or {}).get("error_code")
        return code if isinstance(code, str) else None

    def failure(self) -> TrackerFailure:
        """Return the error of this response."""
        found = self._parsed() or {}
        message = found.get("message") or found.get("error") or ""
        said = printable(str(message), SHOWN_CHARACTERS)
        match self.status:
            case HTTPStatus.UNAUTHORIZED:
                what = "refuses the credentials (status 401). Replace them."
            case HTTPStatus.FORBIDDEN:
                what = "denies access (status 403). Check the rights of the credentials."
            case status if 300 <= status < 400:
                what = f"redirects (status {status}), which EcoLink does not follow. Change the URL"
                what += "."
            case status:
                what = f"responds with the status {status}."
        text = f"{self._title} {what}" + (
            f" It says: {said}" if said and self.shows_message else ""
        )
        return TrackerFailure(text, self._retry_after)

    def _parsed(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self._content)
        except (ValueError, RecursionError):  # the second if the JSON is too deep
            return None
        return found if isinstance(found, dict) else None


def _auth(server: Server) -> str | None:
    if server.secret is None:
        return None
    if server.username is None:
        return f"Bearer {server.secret}"
    request = next(
        httpx.BasicAuth(server.username, server.secret).auth_flow(httpx.Request("GET", server.url))
    )
    return request.headers["authorization"]


def _delay(response: httpx.Response) -> timedelta | None:
    """Return the delay that a server requests, at most the longest one."""
    delay = requested_delay(response, datetime.now(UTC))
    return None if delay is None else min(delay, LONGEST_DELAY)
