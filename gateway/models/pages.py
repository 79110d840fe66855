"""The models page and the playground."""

from __future__ import annotations

import json
from collections.abc import Callable

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from domain.core.errors import DomainError
from gateway.backend import Backend, BackendOf
from gateway.chat.schemas import ChatRequest
from gateway.chat.service import start_chat
from gateway.chat.serving import ServingOf
from gateway.http.access import Caller, CallerOf, operator
from gateway.http.errors import retry_after
from gateway.http.streaming import EventStream
from gateway.jobs.service import give
from gateway.keys.service import list_keys
from gateway.models import deployments
from gateway.models.snippets import snippets_for
from gateway.models.view import models_view
from gateway.schemas import JobId
from gateway.web.rendering import PRIVATE, fragment, page

router = APIRouter(prefix="/models")


@router.get("")
def show_models(
    request: Request, caller: CallerOf, backend: BackendOf, model: str | None = None
) -> Response:
    """Show the models page. `model` selects the model for the code snippets."""
    shown = models_view(backend, caller)
    chosen = shown.chosen(model)
    return page(
        request,
        backend,
        caller,
        "models/page.html",
        shown=shown,
        keys=list_keys(backend, caller),
        chosen=chosen,
        snippets=snippets_for(request, chosen.name if chosen else None),
    )


@router.get("/list")
def show_list(caller: CallerOf, backend: BackendOf) -> Response:
    """Show the lists of models. The page polls them during a deployment."""
    return _lists(backend, caller)


@router.get("/snippets")
def show_snippets(request: Request, caller: CallerOf, backend: BackendOf, model: str) -> Response:
    """Show the code snippets for a model."""
    chosen = models_view(backend, caller).find(model)
    snippets = snippets_for(request, chosen.name if chosen else None)
    return fragment("models/snippets.html", chosen=chosen, snippets=snippets)


@router.get("/playground")
def show_playground(
    request: Request, caller: CallerOf, backend: BackendOf, model: str | None = None
) -> Response:
    """Show the playground page. `model` selects the model."""
    shown = models_view(backend, caller)
    chosen = shown.chosen(model)
    return page(
        request,
        backend,
        caller,
        "models/playground.html",
        shown=shown,
        chosen=chosen,
        model=chosen.name if chosen else None,
    )


@router.get("/playground/chosen")
def show_chosen(caller: CallerOf, backend: BackendOf, model: str) -> Response:
    """Show the deployment states of a model and its base model.

    The page requests them before it sends a message.
    """
    return _chosen(backend, caller, model)


@router.post("/playground/say")
async def say(
    request: Request, form: ChatRequest, caller: CallerOf, backend: BackendOf, serving: ServingOf
) -> Response:
    """Stream a completion. Send errors as events, because browsers log error statuses."""
    try:
        chat = await start_chat(request, form, caller, backend, serving)
    except DomainError as refusal:
        seconds = retry_after(refusal)
        problem = {"code": refusal.code, "message": refusal.message, "passing": seconds is not None}
        problem |= {} if seconds is None else {"retry_after": seconds}
        event = f"data: {json.dumps({'error': problem})}\n\n"
        return Response(event, media_type="text/event-stream", headers=PRIVATE)
    return EventStream(chat.events(), chat.close)


@router.post("/playground/deploy")
def deploy_chosen(caller: CallerOf, backend: BackendOf, model: str) -> Response:
    """Deploy the chosen model from the playground."""
    deployments.deploy_model(backend, caller, model)
    return _chosen(backend, caller, model)


@router.post("/jobs/{job_id}/promote")
def promote(job_id: JobId, caller: CallerOf, backend: BackendOf) -> Response:
    """Promote the last checkpoint of a cancelled or failed job to a model."""
    give(backend, caller, job_id, backend.launching.promote)
    return _lists(backend, caller)


def _changes(command: Callable[[Backend, Caller, str], object]) -> Callable[..., Response]:
    """Return a handler that changes the deployment of a model and shows the lists."""

    def change(model: str, caller: CallerOf, backend: BackendOf) -> Response:
        command(backend, caller, model)
        return _lists(backend, caller)

    return change


router.post("/{model}/deploy")(_changes(deployments.deploy_model))
router.post("/{model}/undeploy")(_changes(deployments.undeploy_model))
for_operators = APIRouter(prefix="/bases/{model}", dependencies=[Depends(operator)])
for_operators.post("/deploy")(_changes(deployments.deploy_base))
for_operators.post("/undeploy")(_changes(deployments.undeploy_base))
router.include_router(for_operators)


def _lists(backend: Backend, caller: Caller) -> Response:
    return fragment("models/lists.html", shown=models_view(backend, caller))


def _chosen(backend: Backend, caller: Caller, model: str) -> Response:
    shown = models_view(backend, caller)
    return fragment("models/chosen.html", shown=shown, chosen=shown.find(model), model=model)
