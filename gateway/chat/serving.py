"""Client of the serving process."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated

import httpx
from fastapi import Depends, Request
from pydantic import TypeAdapter, ValidationError

from domain.core.errors import DomainError, Invalid
from gateway.http.errors import NotServing, Overloaded
from infrastructure.generation import (
    GENERATE_PATH,
    GenerationFailed,
    GenerationRefused,
    GenerationRequest,
    PromptRead,
    TextDelta,
)
from infrastructure.ndjson import lines_as_they_come
from infrastructure.settings import Settings

SILENT_SECONDS = 300.0
"""Maximum seconds of a generation without output. A generation can be queued for this long."""

CONNECTIONS = 1000
"""Maximum concurrent generations. The serving process rejects requests well below it."""

LINE = TypeAdapter(PromptRead | TextDelta | GenerationFailed)

REFUSALS: dict[int, type[DomainError]] = {
    HTTPStatus.BAD_REQUEST: Invalid,
    HTTPStatus.TOO_MANY_REQUESTS: Overloaded,
    HTTPStatus.SERVICE_UNAVAILABLE: NotServing,
}

log = logging.getLogger("gateway")

MALFORMED = "The serving process sent an invalid response. Ask your operator to read its log."
ENDED_EARLY = "The serving process ended during the generation. Try again later."
UNEXPECTED = "The serving process failed. Try again later, or ask your operator to read its log."
UNREACHABLE = "The gateway cannot reach the serving process. Try again soon."


class GenerationInterrupted(NotServing):
    """A generation ended before it was complete."""

    code = "broken_off"


class Generation:
    """A generation in progress."""

    def __init__(
        self,
        response: httpx.Response,
        prompt_tokens: int,
        lines: AsyncIterator[bytes],
        choices: int,
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self._choices = choices
        self._response = response
        self._lines = lines

    async def pieces(self) -> AsyncIterator[TextDelta]:
        """Yield the text deltas of all choices. Raise GenerationInterrupted if one does not end."""
        unfinished = set(range(self._choices))
        try:
            async for line in self._lines:
                piece = LINE.validate_json(line)
                if isinstance(piece, GenerationFailed):
                    raise GenerationInterrupted(piece.failed)
                if not isinstance(piece, TextDelta) or piece.choice not in unfinished:
                    raise GenerationInterrupted(MALFORMED)
                if piece.finish_reason is not None:
                    unfinished.remove(piece.choice)
                yield piece
        except ValidationError as error:
            log.exception("the serving process sent a malformed line")
            raise GenerationInterrupted(MALFORMED) from error
        except httpx.ReadTimeout as error:
            raise GenerationInterrupted(
                f"The serving process sent nothing for {SILENT_SECONDS:.0f} s, because it is "
                "overloaded. Try again later."
            ) from error
        except httpx.HTTPError as error:
            raise GenerationInterrupted(ENDED_EARLY) from error
        if unfinished:
            raise GenerationInterrupted(ENDED_EARLY)

    async def close(self) -> None:
        """Stop the generation."""
        await self._response.aclose()


class Serving:
    """A connection to the serving process."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def generate(self, asked: GenerationRequest) -> Generation:
        """Start a generation. The caller must close it.

        Raise Invalid or Overloaded if serving rejects the request, and NotServing if serving or the
        model is not available.
        """
        content = asked.model_dump_json()
        try:
            request = self._client.build_request("POST", GENERATE_PATH, content=content)
            response = await self._client.send(request, stream=True)
            if response.status_code != HTTPStatus.OK:
                raise _refusal(response.status_code, await _body(response))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NotServing(UNREACHABLE) from error
        try:
            lines = lines_as_they_come(response.aiter_bytes())
            first = PromptRead.model_validate_json(await anext(lines, b""))
        except (httpx.HTTPError, ValidationError) as error:
            await response.aclose()
            log.warning("the serving process sent a malformed first line: %s", error)
            raise NotServing(UNREACHABLE) from error
        except BaseException:  # the client disconnected
            await response.aclose()
            raise
        return Generation(response, first.prompt_tokens, lines, asked.choices)


async def _body(response: httpx.Response) -> bytes:
    try:
        return await response.aread()
    finally:
        await response.aclose()


def _refusal(status: int, body: bytes) -> DomainError:
    kind = REFUSALS.get(status)
    if kind is None:
        log.error("the serving process returned %d: %r", status, body[:500])
        return NotServing(UNEXPECTED)
    try:
        refused = GenerationRefused.model_validate_json(body)
    except ValidationError:
        return NotServing(UNREACHABLE)
    refusal = kind(refused.message, field=refused.field)
    refusal.code = refused.code
    return refusal


@asynccontextmanager
async def open_serving(settings: Settings) -> AsyncGenerator[Serving]:
    """Open the connection pool for the lifetime of the gateway."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # the gateway already logs requests
    async with httpx.AsyncClient(
        base_url=settings.serving_url or "",
        headers={
            "authorization": f"Bearer {settings.serving_secret}",
            "content-type": "application/json",
        },
        timeout=httpx.Timeout(5.0, read=SILENT_SECONDS),
        limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=20),
        trust_env=False,  # serving is on this network, so ignore proxy settings
    ) as client:
        yield Serving(client)


async def serving_of(request: Request) -> Serving:
    """Return the connection of this application."""
    return request.app.state.serving


ServingOf = Annotated[Serving, Depends(serving_of)]
