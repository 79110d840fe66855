"""The models page and the playground."""

from __future__ import annotations

import json

from fastapi import APIRouter, Request
from fastapi.responses import Response

from domain.core.errors import DomainError
from gateway.backend import Backend, BackendOf
from gateway.chat.schemas import ChatRequest
from gateway.chat.service import events_while_valid, start_chat
from gateway.chat.serving import ServingOf
from gateway.http.access import Caller
from gateway.http.errors import retry_after
from gateway.http.permissions import MayDeploy, MayRead, MayTrain, OperatorDeploys
from gateway.http.streaming import EventStream
from gateway.jobs.service import give
from gateway.keys.view import shown_keys
from gateway.models import deployments
from gateway.models.service import delete_model
from gateway.models.snippets import snippets_for
from gateway.models.view import models_view
from gateway.schemas import JobId
from gateway.web.rendering import PRIVATE, fragment, page, panel_data

router = APIRouter(prefix="/models")


@router.get("")
def show_models(
    request: Request, caller: MayRead, backend: BackendOf, model: str | None = None
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
        chosen=chosen,
        snippets=snippets_for(request, chosen.name if chosen else None),
        **shown_keys(backend, caller),
        **panel_data("models.lists", backend, caller),
    )


@router.get("/list")
def show_list(caller: MayRead, backend: BackendOf) -> Response:
    """Show the lists of models. The page polls them during a deployment."""
    return updated_lists(backend, caller)


@router.get("/snippets")
def show_snippets(request: Request, caller: MayRead, backend: BackendOf, model: str) -> Response:
    """Show the code snippets for a model."""
    chosen = models_view(backend, caller).find(model)
    snippets = snippets_for(request, chosen.name if chosen else None)
    return fragment("models/snippets.html", chosen=chosen, snippets=snippets)


@router.get("/playground")
def show_playground(
    request: Request, caller: MayRead, backend: BackendOf, model: str | None = None
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
def show_chosen(caller: MayRead, backend: BackendOf, model: str) -> Response:
    """Show the deployment states of a model and its base model.

    The page requests them before it sends a message.
    """
    return _chosen(backend, caller, model)


@router.post("/playground/say")
async def say(
    request: Request, form: ChatRequest, caller: MayDeploy, backend: BackendOf, serving: ServingOf
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
    return EventStream(events_while_valid(request, caller, chat), chat.close)


@router.post("/playground/deploy")
def deploy_chosen(caller: MayDeploy, backend: BackendOf, model: str) -> Response:
    """Deploy the chosen model from the playground."""
    deployments.deploy_model(backend, caller, model)
    return _chosen(backend, caller, model)


@router.post("/jobs/{job_id}/promote")
def promote(job_id: JobId, caller: MayTrain, backend: BackendOf) -> Response:
    """Promote the last checkpoint of a cancelled or failed job to a model."""
    give(backend, caller, job_id, backend.launching.promote)
    return updated_lists(backend, caller)


@router.post("/{model}/deploy")
def deploy(model: str, caller: MayDeploy, backend: BackendOf) -> Response:
    """Deploy a model of the account."""
    deployments.deploy_model(backend, caller, model)
    return updated_lists(backend, caller)


@router.post("/{model}/undeploy")
def undeploy(model: str, caller: MayDeploy, backend: BackendOf) -> Response:
    """Undeploy a model of the account."""
    deployments.undeploy_model(backend, caller, model)
    return updated_lists(backend, caller)


@router.post("/{model}/delete")
def delete(model: str, caller: MayDeploy, backend: BackendOf) -> Response:
    """Delete a model of the account and all checkpoints of its job."""
    delete_model(backend, caller, model)
    return updated_lists(backend, caller)


@router.post("/bases/{model}/deploy")
def deploy_base(model: str, caller: OperatorDeploys, backend: BackendOf) -> Response:
    """Deploy a base model."""
    deployments.deploy_base(backend, caller, model)
    return updated_lists(backend, caller)


@router.post("/bases/{model}/undeploy")
def undeploy_base(model: str, caller: OperatorDeploys, backend: BackendOf) -> Response:
    """Undeploy a base model."""
    deployments.undeploy_base(backend, caller, model)
    return updated_lists(backend, caller)


@router.post("/bases/{model}/delete")
def delete_base(model: str, caller: OperatorDeploys, backend: BackendOf) -> Response:
    """Delete an imported base model and its files for all accounts."""
    deployments.delete_base(backend, caller, model)
    return updated_lists(backend, caller)


def updated_lists(backend: Backend, caller: Caller) -> Response:
    """Return the lists of models, after a change."""
    own = panel_data("models.lists", backend, caller)
    return fragment("models/lists.html", shown=models_view(backend, caller), **own)


def _chosen(backend: Backend, caller: Caller, model: str) -> Response:
    shown = models_view(backend, caller)
    return fragment("models/chosen.html", shown=shown, chosen=shown.find(model), model=model)
