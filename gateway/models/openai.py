"""Routes of models under /v1."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter

from domain.core.errors import NotFound
from gateway.backend import BackendOf
from gateway.http.access import Caller
from gateway.http.errors import refusals
from gateway.http.openai_vocabulary import organization
from gateway.http.operations import OpenAIOperation
from gateway.http.permissions import MayDeploy, MayRead
from gateway.http.read_your_writes import caught_up
from gateway.models.service import (
    ModelName,
    NameKind,
    delete_model_named,
    find_model_name,
    model_names,
)
from gateway.schemas import ResponseModel
from projections import BASE_MODELS, DEPLOYMENTS, MODELS

PLATFORM = "ecolink"

router = APIRouter(prefix="/models", route_class=OpenAIOperation)


class ModelObject(ResponseModel):
    """OpenAI's `model` object."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(ResponseModel):
    """OpenAI's list of models, which is not paginated."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class ModelDeleted(ResponseModel):
    """OpenAI's confirmation that a model was deleted."""

    id: str
    object: Literal["model"] = "model"
    deleted: bool = True


@router.get("")
def list_models(caller: MayRead, backend: BackendOf) -> ModelList:
    """List base models by name, then your models, newest first, then your deployed checkpoints."""
    return ModelList(data=[_model(each, caller) for each in model_names(backend, caller)])


@router.get("/{model:path}")
def retrieve_model(model: str, caller: MayRead, backend: BackendOf) -> ModelObject:
    """Retrieve a model."""
    found = find_model_name(backend, caller, model)
    if found is None and caught_up(backend, MODELS, BASE_MODELS, DEPLOYMENTS):
        found = find_model_name(backend, caller, model)
    if found is None:
        raise NotFound(f"Unknown model {model!r}. See GET /v1/models.", field="model")
    return _model(found, caller)


@router.delete("/{model:path}", responses=refusals(403))
def remove_model(model: str, caller: MayDeploy, backend: BackendOf) -> ModelDeleted:
    """Delete your model and the checkpoints of its job. Later requests to them fail."""
    delete_model_named(backend, caller, model)
    return ModelDeleted(id=model)


def _model(named: ModelName, caller: Caller) -> ModelObject:
    owner = PLATFORM if named.kind is NameKind.BASE else organization(caller.account_id)
    return ModelObject(id=named.name, created=int(named.created_at.timestamp()), owned_by=owner)
