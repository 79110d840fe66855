"""The gateway's side of serving: it asks for answers, and reads them as they are said."""

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
    GenerationAsked,
    GenerationFailed,
    GenerationRefused,
    PromptRead,
    TextGrown,
)
from infrastructure.ndjson import lines_as_they_come
from infrastructure.settings import Settings

SILENT_SECONDS = 300.0
"""Without a word, after which an answer is given up: it may wait for its turn that long."""

CONNECTIONS = 1000
"""Answers at a time; serving refuses long before that."""

LINE = TypeAdapter(PromptRead | TextGrown | GenerationFailed)

REFUSALS: dict[int, type[DomainError]] = {
    HTTPStatus.BAD_REQUEST: Invalid,
    HTTPStatus.TOO_MANY_REQUESTS: Overloaded,
    HTTPStatus.SERVICE_UNAVAILABLE: NotServing,
}

log = logging.getLogger("gateway")

NO_ANSWER = "the serving process said what is no answer"
ENDED_EARLY = "the serving process ended before the answer did"
UNEXPECTED = "the serving process failed to take the chat; its log says why; try again later"
UNREACHABLE = "the serving process cannot be reached now; try again soon"


class BrokenOff(NotServing):
    """An answer ended before it was complete."""

    code = "broken_off"


class Speech:
    """An answer while it is said."""

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

    async def pieces(self) -> AsyncIterator[TextGrown]:
        """Pieces of all choices, as they come; raises BrokenOff unless all of them end."""
        saying = set(range(self._choices))
        try:
            async for line in self._lines:
                said = LINE.validate_json(line)
                if isinstance(said, GenerationFailed):
                    raise BrokenOff(said.failed)
                if not isinstance(said, TextGrown) or said.choice not in saying:
                    raise BrokenOff(NO_ANSWER)
                if said.finish_reason is not None:
                    saying.remove(said.choice)
                yield said
        except ValidationError as error:
            log.exception("serving said what is no line of an answer")
            raise BrokenOff(NO_ANSWER) from error
        except httpx.ReadTimeout as error:
            raise BrokenOff(
                f"nothing was said for {SILENT_SECONDS:.0f} seconds: more is asked than can be "
                "answered; try again later"
            ) from error
        except httpx.HTTPError as error:
            raise BrokenOff(ENDED_EARLY) from error
        if saying:
            raise BrokenOff(ENDED_EARLY)

    async def close(self) -> None:
        """Hear no more; what is not said yet is not computed."""
        await self._response.aclose()


class Serving:
    """A connection to the process that holds the models."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def ask(self, asked: GenerationAsked) -> Speech:
        """Begin an answer; the caller closes it.

        Raises Invalid, Overloaded and NotServing.
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
            log.warning("serving does not begin its answer as one: %s", error)
            raise NotServing(UNREACHABLE) from error
        except BaseException:  # the client left meanwhile
            await response.aclose()
            raise
        return Speech(response, first.prompt_tokens, lines, asked.choices)


async def _body(response: httpx.Response) -> bytes:
    try:
        return await response.aread()
    finally:
        await response.aclose()


def _refusal(status: int, body: bytes) -> DomainError:
    kind = REFUSALS.get(status)
    if kind is None:
        log.error("serving answered %d: %r", status, body[:500])
        return NotServing(UNEXPECTED)
    try:
        said = GenerationRefused.model_validate_json(body)
    except ValidationError:
        return NotServing(UNREACHABLE)
    refusal = kind(said.message, field=said.field)
    refusal.code = said.code
    return refusal


@asynccontextmanager
async def open_serving(settings: Settings) -> AsyncGenerator[Serving]:
    """Connect when the first answer is asked for, and close at the end."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a request has its line in the log
    async with httpx.AsyncClient(
        base_url=settings.serving_url or "",
        headers={
            "authorization": f"Bearer {settings.serving_secret}",
            "content-type": "application/json",
        },
        timeout=httpx.Timeout(5.0, read=SILENT_SECONDS),
        limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=20),
        trust_env=False,  # it is a neighbour: no proxy stands between
    ) as client:
        yield Serving(client)


async def serving_of(request: Request) -> Serving:
    """The connection of the application that serves this request."""
    return request.app.state.serving


ServingOf = Annotated[Serving, Depends(serving_of)]
