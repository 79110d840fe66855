"""What the gateway speaks with: one route that answers a chat, line by line as it is said."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from http import HTTPStatus
from secrets import compare_digest
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope, Send

from infrastructure.connection_guard import ConnectionGuard, GuardedServer
from infrastructure.generation import (
    GENERATE_PATH,
    GenerationAsked,
    GenerationFailed,
    GenerationRefused,
    PromptRead,
    TextGrown,
)
from infrastructure.limits import Limits
from services.serving.engine import Engine, GenerationHandle
from services.serving.refusals import Refused

if TYPE_CHECKING:
    from services.serving.row import Grown, Listener

log = logging.getLogger("serving")

RETRY_SECONDS = 1

BODY_BYTES = 4 * 1024**2
"""Of a chat; the gateway takes no body of more than a quarter."""


def create_app(engine: Engine, secret: str) -> FastAPI:
    """The application; only who shows the secret is answered."""
    app = FastAPI(openapi_url=None)

    @app.post(GENERATE_PATH)
    async def generate(request: Request) -> Response:
        shown = request.headers.get("authorization", "")
        if not compare_digest(shown.encode(), f"Bearer {secret}".encode()):
            return Response(status_code=HTTPStatus.UNAUTHORIZED)
        body = await _body(request)
        if body is None:
            return Response(status_code=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        try:
            asked = GenerationAsked.model_validate_json(body)
        except ValidationError:
            log.exception("the gateway asks what is no chat")
            return Response(status_code=HTTPStatus.UNPROCESSABLE_ENTITY)
        heard = Heard(asked.choices)
        try:
            begun = await run_in_threadpool(engine.ask, asked, heard.listener)
        except Refused as refused:
            return _refusal(refused)
        return Lines(begun, heard)

    return app


async def _body(request: Request) -> bytes | None:
    """What was sent, read only now that the secret was shown; None: more than is read."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_BYTES:
            return None
    return bytes(body)


def _refusal(refused: Refused) -> JSONResponse:
    body = GenerationRefused(code=refused.code, message=refused.message, field=refused.field)
    retry = refused.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
    headers = {"retry-after": str(RETRY_SECONDS)} if retry else None
    return JSONResponse(body.model_dump(), refused.status, headers)


class Heard:
    """Brings what the engine's thread says to the event loop that it was made in."""

    def __init__(self, choices: int) -> None:
        self._open = choices
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Grown | Exception]] = asyncio.Queue()

    def listener(self, choice: int) -> Listener:
        """Hears one choice; called in any thread."""

        def listen(grown: Grown | Exception) -> None:
            try:
                self._loop.call_soon_threadsafe(self._queue.put_nowait, (choice, grown))
            except RuntimeError:
                log.info("an answer has nobody to hear it: the process ends")

        return listen

    async def lines(self) -> AsyncIterator[BaseModel]:
        """What is heard until all choices have ended. A reader that is slow gets longer pieces."""
        while self._open:
            pieces = [await self._queue.get()]
            while not self._queue.empty():
                pieces.append(self._queue.get_nowait())
            grown: dict[int, TextGrown] = {}
            for choice, piece in pieces:
                if isinstance(piece, Exception):
                    yield GenerationFailed(failed="the answer broke off: the model failed")
                    return
                before = grown[choice].text if choice in grown else ""
                ended = piece.finish_reason is not None
                self._open -= ended
                grown[choice] = TextGrown(
                    choice=choice,
                    text=before + piece.text,
                    finish_reason=piece.finish_reason,
                    completion_tokens=piece.completion_tokens if ended else None,
                )
            for line in grown.values():
                yield line


class Lines(StreamingResponse):
    """An answer as JSON lines; when its reader is gone, nothing more is said."""

    def __init__(self, begun: GenerationHandle, heard: Heard) -> None:
        self._begun = begun
        super().__init__(self._written(heard), media_type="application/jsonl")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the lines."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._begun.cancel()

    async def _written(self, heard: Heard) -> AsyncIterator[str]:
        yield _line(PromptRead(prompt_tokens=self._begun.prompt_tokens))
        async for each in heard.lines():
            yield _line(each)


def _line(said: BaseModel) -> str:
    return said.model_dump_json(exclude_none=True) + "\n"


class Server(GuardedServer):
    """Serves inside of a process that handles signals itself."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals alone."""
        yield


async def serve_app(app: FastAPI, host: str, port: int) -> None:
    """Serve until the task is cancelled. A port that is taken ends the process; the log says so."""
    # Each answer is a connection of the gateway's.
    guard = ConnectionGuard(Limits({}), exempt=frozenset({"127.0.0.1", "::1"}))
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        lifespan="off",  # the app has none, and its cancelled end would be logged as an error
        log_config=None,
        access_log=False,
        **guard.protocols(),
    )
    await Server(config, guard).serve()
