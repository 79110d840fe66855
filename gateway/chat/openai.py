"""Route of chat completions under /v1."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from gateway.backend import BackendOf
from gateway.chat.schemas import ChatCompletion, ChatRequest
from gateway.chat.service import completion_while_valid, events_while_valid, start_chat
from gateway.chat.serving import ServingOf
from gateway.http.errors import refusals
from gateway.http.operations import OpenAIOperation
from gateway.http.permissions import MayDeploy
from gateway.http.streaming import EventStream

ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ChatCompletion,
        "description": "The completion. With `stream`, server-sent events up to `data: [DONE]`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    **refusals(404),
}

router = APIRouter(route_class=OpenAIOperation)


@router.post("/chat/completions", responses=ANSWERS)
async def create_completion(
    request: Request, form: ChatRequest, caller: MayDeploy, backend: BackendOf, serving: ServingOf
) -> Response:
    """Create a chat completion. Set `stream` to receive it as server-sent events."""
    chat = await start_chat(request, form, caller, backend, serving)
    if form.stream:
        return EventStream(events_while_valid(request, caller, chat), chat.close)
    try:
        return JSONResponse(await completion_while_valid(request, caller, chat))
    finally:
        await chat.close()
