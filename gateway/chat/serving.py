"""Client of the serving process.

Of several serving processes, one leads, and only the leader accepts connections. A process that
froze or lost its network accepts connections but does not answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated
from weakref import WeakSet

import httpx
from fastapi import Depends, Request
from pydantic import TypeAdapter, ValidationError

from domain.core.errors import DomainError, Invalid
from gateway.http.errors import NotServing, Overloaded
from infrastructure.chat.generation import (
    GENERATE_PATH,
    GenerationFailed,
    GenerationRefused,
    GenerationRequest,
    KeepAlive,
    PromptRead,
    TextDelta,
)
from infrastructure.http.ndjson import lines_as_they_come
from infrastructure.settings import Settings

SILENT_SECONDS = 300.0
"""Maximum seconds of a generation without output. A generation can be queued for this long."""

ACCEPT_SECONDS = 20.0
"""Maximum seconds until a process accepts or refuses a generation, before its queue."""

LATE_KEEPALIVES = 4
"""Number of missing keep-alive lines after which a process counts as hung."""

CONNECTIONS = 1000
"""Maximum concurrent generations. The serving process rejects requests well below it."""

LINE = TypeAdapter(PromptRead | TextDelta | GenerationFailed | KeepAlive)

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
STOPPING = "The gateway stopped during the generation. Try again."
HUNG = "The serving process stopped responding during the generation. Try again."
OVERLOADED = (
    f"The serving process sent nothing for {SILENT_SECONDS:.0f} s, because it is overloaded. "
    "Try again later."
)


class Unreachable(NotServing):
    """No process answers at a URL."""

    def __init__(self) -> None:
        super().__init__(UNREACHABLE)


class GenerationInterrupted(NotServing):
    """A generation ended before it was complete."""

    code = "broken_off"


class Generation:
    """A generation in progress."""

    def __init__(
        self, response: httpx.Response, first: PromptRead, lines: AsyncIterator[bytes], choices: int
    ) -> None:
        self.prompt_tokens = first.prompt_tokens
        self._keepalive_seconds = first.keepalive_seconds
        self._choices = choices
        self._response = response
        self._lines = lines
        self._waiting: asyncio.Timeout | None = None
        self._interrupted = False

    async def pieces(self) -> AsyncIterator[TextDelta]:
        """Yield the text deltas of all choices. Raise GenerationInterrupted if one does not end."""
        unfinished = set(range(self._choices))
        try:
            async for piece in self._output():
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
        except httpx.HTTPError as error:
            raise GenerationInterrupted(ENDED_EARLY) from error
        if unfinished:
            raise GenerationInterrupted(ENDED_EARLY)

    async def _output(self) -> AsyncIterator[PromptRead | TextDelta | GenerationFailed]:
        """Yield all but keep-alive lines. Raise GenerationInterrupted if the process hangs."""
        now = asyncio.get_running_loop().time
        beat = self._keepalive_seconds
        longest_pause = SILENT_SECONDS if beat is None else LATE_KEEPALIVES * beat
        silent_at = now() + SILENT_SECONDS
        while True:
            hung_at = now() + longest_pause
            until = now() if self._interrupted else min(hung_at, silent_at)
            try:
                async with asyncio.timeout_at(until) as self._waiting:
                    line = await anext(self._lines, None)
            except TimeoutError as error:
                why = HUNG if hung_at < silent_at else OVERLOADED
                raise GenerationInterrupted(STOPPING if self._interrupted else why) from error
            finally:
                self._waiting = None
            if line is None:
                return
            piece = LINE.validate_json(line)
            if not isinstance(piece, KeepAlive):
                silent_at = now() + SILENT_SECONDS
                yield piece

    def interrupt(self) -> None:
        """Let `pieces` raise GenerationInterrupted, because the gateway stops."""
        self._interrupted = True
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(asyncio.get_running_loop().time())

    async def close(self) -> None:
        """Stop the generation."""
        await self._response.aclose()


class Serving:
    """A connection to the serving processes, at one URL each."""

    def __init__(self, client: httpx.AsyncClient, urls: Sequence[str]) -> None:
        self._client, self._urls = client, tuple(urls)
        self._generations: WeakSet[Generation] = WeakSet()

    async def generate(self, asked: GenerationRequest) -> Generation:
        """Start a generation on the process that leads. The caller must close it.

        A process that cannot answer is followed by the next one, and later requests begin with the
        one that answered. Raise Invalid or Overloaded if serving rejects the request, and
        NotServing if no process or the model is available.
        """
        refusals: list[NotServing] = []
        for url in self._urls:
            try:
                generation = await self._start(url, asked)
            except NotServing as refusal:
                refusals.append(refusal)
            else:
                self._prefer(url)
                self._generations.add(generation)
                return generation
        answered = [each for each in refusals if not isinstance(each, Unreachable)]
        raise (answered or refusals or [Unreachable()])[0]

    def interrupt(self) -> None:
        """Interrupt all generations, so that their clients get a clear error."""
        for each in list(self._generations):
            each.interrupt()

    def _prefer(self, url: str) -> None:
        if self._urls[0] != url:
            log.info("the serving process at %s answers chats now", url)
            self._urls = (url, *(each for each in self._urls if each != url))

    async def _start(self, url: str, asked: GenerationRequest) -> Generation:
        content = asked.model_copy(update={"keepalive": True}).model_dump_json()
        response: httpx.Response | None = None
        try:
            async with asyncio.timeout(ACCEPT_SECONDS):
                request = self._client.build_request("POST", url + GENERATE_PATH, content=content)
                response = await self._client.send(request, stream=True)
                if response.status_code != HTTPStatus.OK:
                    raise _refusal(response.status_code, await response.aread())
                lines = lines_as_they_come(response.aiter_bytes())
                first = PromptRead.model_validate_json(await anext(lines, b""))
        except BaseException as error:  # also if the client disconnected
            if response is not None:
                await response.aclose()
            match error:
                case ValidationError():
                    log.warning("the serving process sent a malformed first line: %s", error)
                case TimeoutError():
                    log.warning("the serving process at %s accepts no chats", url)
                case httpx.HTTPError() | httpx.InvalidURL():
                    pass
                case _:
                    raise
            raise Unreachable from error
        return Generation(response, first, lines, asked.choices)


def _refusal(status: int, body: bytes) -> DomainError:
    kind = REFUSALS.get(status)
    if kind is None:
        log.error("the serving process returned %d: %r", status, body[:500])
        return NotServing(UNEXPECTED)
    try:
        refused = GenerationRefused.model_validate_json(body)
    except ValidationError:
        return Unreachable()
    refusal = kind(refused.message, field=refused.field)
    refusal.code = refused.code
    return refusal


def urls_of(text: str | None) -> list[str]:
    """Return the comma-separated URLs without trailing slashes, or one empty URL for none."""
    found = [url for each in (text or "").split(",") if (url := each.strip().rstrip("/"))]
    return found or [""]


@asynccontextmanager
async def open_serving(settings: Settings) -> AsyncGenerator[Serving]:
    """Open the connection pool for the lifetime of the gateway."""
    async with httpx.AsyncClient(
        headers={
            "authorization": f"Bearer {settings.serving_secret}",
            "content-type": "application/json",
        },
        timeout=httpx.Timeout(5.0, read=None),  # Serving and Generation limit the time themselves
        limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=20),
        trust_env=False,  # serving is on this network, so ignore proxy settings
    ) as client:
        yield Serving(client, urls_of(settings.serving_url))


async def serving_of(request: Request) -> Serving:
    """Return the connection of this application."""
    return request.app.state.serving


ServingOf = Annotated[Serving, Depends(serving_of)]
