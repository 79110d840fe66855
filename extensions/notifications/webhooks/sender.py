"""Sending one webhook: a signed POST to a checked address, with limits on time and size."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

import httpx

from domain.core.errors import Invalid
from domain.core.target import TargetPolicy
from extensions.notifications.domain.signature import signed_headers
from extensions.notifications.webhooks.deliveries import Attempt, Due
from infrastructure.http.guarded import GuardedTransport, Refused, Resolve, printable
from infrastructure.http.retry_after import requested_delay
from infrastructure.process.code_version import package_version

log = logging.getLogger("webhooks")

TOTAL_SECONDS = 15.0
"""Time of one attempt, from the look-up of the host name to the end of the response."""

EXCERPT_BYTES = 500
"""Stored part of a response. EcoLink reads no more of it."""

DELAYING = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
"""Statuses with which a receiver can request a delay."""


class Sender:
    """Sends webhooks. Each attempt opens its own connection, to an address that it has checked."""

    def __init__(self, policy: TargetPolicy, resolve: Resolve | None = None) -> None:
        self._policy, self._transport = policy, GuardedTransport(policy, resolve)
        self._agent = f"EcoLink/{package_version()} (webhooks)"

    async def send(self, due: Due) -> Attempt:
        """Send a delivery once. Every failure is the attempt's error."""
        started, begun = datetime.now(UTC), time.monotonic()
        status: int | None = None
        error: str | None = None
        excerpt: str | None = None
        retry_after: timedelta | None = None
        try:
            async with asyncio.timeout(TOTAL_SECONDS):
                response, excerpt = await self._post(due, started)
            status, error = response.status_code, problem_of(response.status_code)
            if response.status_code in DELAYING:
                retry_after = requested_delay(response, started)
        except TimeoutError:
            error = f"No response within {TOTAL_SECONDS:.0f} seconds."
        except (Refused, OSError, httpx.HTTPError) as failure:
            error = printable(str(failure) or type(failure).__name__, EXCERPT_BYTES)
        except Exception as failure:
            log.exception("delivery %d failed unexpectedly", due.id)
            error = f"EcoLink could not send the request ({type(failure).__name__})."
        duration = round((time.monotonic() - begun) * 1000)
        return Attempt(started, duration, status, error, excerpt, retry_after)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    async def _post(self, due: Due, sent_at: datetime) -> tuple[httpx.Response, str]:
        """Return the closed response and the start of its body.

        Raise Refused or an error of httpx.
        """
        if not due.secrets:
            raise Refused("The webhook has no secret, as after a restored backup. Replace it.")
        try:
            self._policy.require_url(due.url)  # the operator may have changed the policy
        except Invalid:
            # Keys that read this error may not see the URL, which the message contains.
            raise Refused("The operator no longer permits this URL. Change it.") from None
        url = httpx.URL(due.url)
        headers = {
            "host": url.netloc.decode(),
            "content-type": "application/json",
            "user-agent": self._agent,
            "accept-encoding": "identity",
            **signed_headers(due.secrets, due.message_id, sent_at, due.body),
        }
        request = httpx.Request("POST", url, headers=headers, content=due.body.encode())
        response = await self._transport.handle_async_request(request)
        try:
            return response, await _excerpt(response)
        finally:
            await response.aclose()


def problem_of(status: int) -> str | None:
    """Return why a status is no success, or None."""
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return f"Status {status}: EcoLink does not follow redirects. Change the URL."
    if status == HTTPStatus.GONE:
        return "Status 410: the endpoint wants no more webhooks."
    return f"Status {status}."


async def _excerpt(response: httpx.Response) -> str:
    content = b""
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) >= EXCERPT_BYTES:
            break
    return printable(content[:EXCERPT_BYTES].decode(errors="replace"), EXCERPT_BYTES)
