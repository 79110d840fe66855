"""The playground: one message to a model and to its base at once."""

from __future__ import annotations

import json

from fastapi import APIRouter, Request
from fastapi.responses import Response

from domain.core.errors import DomainError
from gateway.backend import Backend, BackendOf
from gateway.chat.openai.chat import create_completion
from gateway.chat.request import ChatRequest
from gateway.chat.serving import ServingOf
from gateway.http.access import Caller, CallerOf
from gateway.http.errors import retry_after
from gateway.models.api.deployments import deploy_model
from gateway.models.pages.models import shown
from gateway.web.rendering import PRIVATE, fragment, page

router = APIRouter(prefix="/models/playground")


@router.get("")
def show_playground(
    request: Request, caller: CallerOf, backend: BackendOf, model: str | None = None
) -> Response:
    """The page, with a model chosen."""
    there = shown(backend, caller)
    return page(
        request,
        backend,
        caller,
        "models/playground.html",
        shown=there,
        chosen=(chosen := there.chosen(model)),
        model=chosen.name if chosen else None,
    )


@router.get("/chosen")
def show_chosen(caller: CallerOf, backend: BackendOf, model: str) -> Response:
    """Whether a model and its base answer now: the page asks before it asks them."""
    return _chosen(backend, caller, model)


@router.post("/say")
async def say(
    request: Request, form: ChatRequest, caller: CallerOf, backend: BackendOf, serving: ServingOf
) -> Response:
    """An answer as /v1 streams it; a refusal is an event, as it is where an answer breaks off.

    A browser writes other statuses than 200 into its console as errors of ours.
    """
    try:
        return await create_completion(request, form, caller, backend, serving)
    except DomainError as refusal:
        seconds = retry_after(refusal)
        problem = {"message": refusal.message, "passing": seconds is not None}
        problem |= {} if seconds is None else {"retry_after": seconds}
        event = f"data: {json.dumps({'error': problem})}\n\n"
        return Response(event, media_type="text/event-stream", headers=PRIVATE)


@router.post("/deploy")
def deploy_chosen(caller: CallerOf, backend: BackendOf, model: str) -> Response:
    """Deploy what is chosen, without leaving the page."""
    deploy_model(model, caller, backend)
    return _chosen(backend, caller, model)


def _chosen(backend: Backend, caller: Caller, model: str) -> Response:
    there = shown(backend, caller)
    return fragment("models/chosen.html", shown=there, chosen=there.find(model), model=model)
