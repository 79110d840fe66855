"""The HTTP API for the gateway, with one route that streams an answer as JSON lines."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from http import HTTPStatus
from secrets import compare_digest

import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope, Send

from domain.core.target import parsed_networks
from infrastructure.bus.exchange import read
from infrastructure.chat.generation import (
    GENERATE_PATH,
    GenerationFailed,
    GenerationRefused,
    GenerationRequest,
    KeepAlive,
    PromptRead,
    TextDelta,
)
from infrastructure.http.connection_guard import ConnectionGuard, GuardedServer
from infrastructure.http.limits import Limits
from services.serving.engine import Engine, GenerationHandle
from services.serving.refusals import Refused

log = logging.getLogger("serving")

RETRY_SECONDS = 1

KEEPALIVE_SECONDS = 5.0
"""Pause between two lines that show a waiting client that this process works."""

END_SECONDS = 3.0
"""Maximum seconds for which an ending server waits for the requests that it interrupts."""

BODY_BYTES = 4 * 1024**2
"""Maximum size of a request body. The gateway accepts a quarter of this size."""


def create_app(engine: Engine, secret: str) -> FastAPI:
    """Return the application. Requests must send the secret as a bearer token."""
    # A trace starts only in the gateway, which sends no trace to this process.
    app = FastAPI(openapi_url=None, telemetry={"tracing": False, "metrics": False, "logs": False})

    @app.post(GENERATE_PATH)
    async def generate(request: Request) -> Response:
        shown = request.headers.get("authorization", "")
        if not compare_digest(shown.encode(), f"Bearer {secret}".encode()):
            return Response(status_code=HTTPStatus.UNAUTHORIZED)
        body = await _body(request)
        if body is None:
            return Response(status_code=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        try:
            chat = read(GenerationRequest, body)
        except ValidationError:
            log.exception("the gateway sent an invalid chat")
            return Response(status_code=HTTPStatus.UNPROCESSABLE_ENTITY)
        stream = ResponseStream(chat.choices, KEEPALIVE_SECONDS if chat.keepalive else None)
        try:
            handle = await run_in_threadpool(engine.generate, chat, stream.listen)
        except Refused as refused:
            return _refusal(refused)
        return Lines(handle, stream)

    return app


async def _body(request: Request) -> bytes | None:
    """Read the body after the authorization check. Return None if it is too large."""
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


class ResponseStream:
    """A stream that passes text from the engine's thread to the event loop that created it."""

    def __init__(self, choices: int, keepalive_seconds: float | None = None) -> None:
        self._open, self._keepalive_seconds = choices, keepalive_seconds
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[TextDelta | Exception] = asyncio.Queue()

    def listen(self, piece: TextDelta | Exception) -> None:
        """Append a piece. Any thread may call this."""
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, piece)
        except RuntimeError:
            log.info("an answer was dropped: the process is ending")

    async def lines(self, prompt_tokens: int) -> AsyncIterator[str]:
        """Yield lines until all choices have ended. Merge pending text for a slow client."""
        beat = self._keepalive_seconds
        yield _line(PromptRead(prompt_tokens=prompt_tokens, keepalive_seconds=beat))
        while self._open:
            try:
                async with asyncio.timeout(beat):
                    pieces = [await self._queue.get()]
            except TimeoutError:
                yield _line(KeepAlive(keepalive=True))
                continue
            while not self._queue.empty():
                pieces.append(self._queue.get_nowait())
            merged: dict[int, TextDelta] = {}
            for piece in pieces:
                if isinstance(piece, Exception):
                    yield _line(GenerationFailed(failed="The model failed to respond. Try again."))
                    return
                self._open -= piece.finish_reason is not None
                if (before := merged.get(piece.choice)) is not None:
                    piece = piece.model_copy(update={"text": before.text + piece.text})
                merged[piece.choice] = piece
            for line in merged.values():
                yield _line(line)


class Lines(StreamingResponse):
    """An answer as a stream of JSON lines, which ends with its client."""

    def __init__(self, handle: GenerationHandle, stream: ResponseStream) -> None:
        self._handle = handle
        super().__init__(stream.lines(handle.prompt_tokens), media_type="application/jsonl")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._handle.cancel()


def _line(line: BaseModel) -> str:
    return line.model_dump_json(exclude_none=True) + "\n"


class Server(GuardedServer):
    """A server for a process that handles signals itself."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def interrupt(self) -> None:
        """Close all connections. For cancelled requests, uvicorn would log tracebacks."""
        for each in self.servers:
            each.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        if requests := self.server_state.tasks:
            log.info("the process ends: interrupting %d requests", len(requests))
            await asyncio.wait(requests, timeout=END_SECONDS)


async def serve_app(app: FastAPI, host: str, port: int) -> None:
    """Serve until cancelled, then interrupt all requests. A port in use ends the process."""
    # The gateway opens a connection for each answer.
    guard = ConnectionGuard(Limits({}), exempt=parsed_networks("127.0.0.1, ::1"))
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        lifespan="off",  # the app has no lifespan events, and cancelling them would log an error
        log_config=None,
        access_log=False,
        **guard.protocols(),
    )
    server = Server(config, guard)
    try:
        await server.serve()
    finally:
        if server.started:
            await server.interrupt()
