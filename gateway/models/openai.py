"""Models under /v1: the bases, and the caller's own."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from fastapi import APIRouter

from domain.core.errors import NotFound, WrongState
from gateway.backend import Backend, BackendOf
from gateway.http.access import Caller, CallerOf
from gateway.http.errors import Forbidden
from gateway.http.openai_vocabulary import organization
from gateway.http.read_your_writes import caught_up
from gateway.models.api.models import delete_model
from gateway.schemas import Answer
from projections import BASE_MODELS, DEPLOYMENTS, MODELS
from projections.base_models import all_base_models
from projections.deployments import deployed_checkpoints
from projections.models import model_of, models_of

PLATFORM = "ecolink"

router = APIRouter(prefix="/models")


class ModelObject(Answer):
    """OpenAI's `model`."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(Answer):
    """All of them: the client knows no pages here."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class ModelDeleted(Answer):
    """A model is gone."""

    id: str
    object: Literal["model"] = "model"
    deleted: bool = True


@router.get("")
def list_models(caller: CallerOf, backend: BackendOf) -> ModelList:
    """The bases by name, the caller's models, the newest first, and deployed checkpoints."""
    with backend.pool.connection() as connection:
        bases = all_base_models(connection)
        own = models_of(connection, caller.account_id)
        checkpoints = deployed_checkpoints(connection, caller.account_id)
    owner = organization(caller.account_id)
    return ModelList(
        data=[
            *(_model(row["name"], row["imported_at"], PLATFORM) for row in bases),
            *(_model(row["model"], row["registered_at"], owner) for row in own),
            *(_model(row["model"], row["requested_at"], owner) for row in checkpoints),
        ]
    )


@router.get("/{model:path}")
def retrieve_model(model: str, caller: CallerOf, backend: BackendOf) -> ModelObject:
    """One model."""
    found = _named(backend, caller, model)
    if found is None and caught_up(backend, MODELS, BASE_MODELS, DEPLOYMENTS):
        found = _named(backend, caller, model)
    if found is None:
        raise NotFound(f"there is no model {model} that you may use", field="model")
    return found


@router.delete("/{model:path}")
def remove_model(model: str, caller: CallerOf, backend: BackendOf) -> ModelDeleted:
    """Delete a model of the caller, with the checkpoints of its job; none answers any more."""
    found = _named(backend, caller, model)
    if found is not None and found.owned_by == PLATFORM:
        raise Forbidden("base models are the platform's", field="model")
    with backend.pool.connection() as connection:
        if deployed_checkpoints(connection, caller.account_id, model):
            how = f"POST /api/models/{model}/undeploy"
            raise WrongState(f"{model} is a checkpoint of a job; {how} takes it out", field="model")
    delete_model(backend, caller, model)
    return ModelDeleted(id=model)


def _named(backend: Backend, caller: Caller, model: str) -> ModelObject | None:
    owner = organization(caller.account_id)
    with backend.pool.connection() as connection:
        for base in all_base_models(connection):
            if base["name"] == model:
                return _model(model, base["imported_at"], PLATFORM)
        if own := model_of(connection, caller.account_id, model):
            return _model(model, own["registered_at"], owner)
        for checkpoint in deployed_checkpoints(connection, caller.account_id, model):
            return _model(model, checkpoint["requested_at"], owner)
    return None


def _model(name: str, since: datetime, owner: str) -> ModelObject:
    return ModelObject(id=name, created=int(since.timestamp()), owned_by=owner)
