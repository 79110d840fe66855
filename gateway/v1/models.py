"""Models under /v1: the bases, and the caller's own."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from fastapi import APIRouter

from domain.errors import NotFound
from gateway.access import Caller, CallerOf
from gateway.answers import Answer
from gateway.api.models import delete_model
from gateway.backend import Backend, BackendOf
from gateway.errors import Forbidden
from gateway.freshness import caught_up
from gateway.v1.vocabulary import organization
from projections import BASE_MODELS, MODELS
from projections.base_models import all_base_models
from projections.models import models_of

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
    """The bases by name, then the caller's own models, the newest first."""
    return ModelList(data=_known(backend, caller))


@router.get("/{model:path}")
def retrieve_model(model: str, caller: CallerOf, backend: BackendOf) -> ModelObject:
    """One model."""
    found = _named(backend, caller, model)
    if found is None and caught_up(backend, MODELS, BASE_MODELS):
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
    delete_model(backend, caller, model)
    return ModelDeleted(id=model)


def _named(backend: Backend, caller: Caller, model: str) -> ModelObject | None:
    return next((each for each in _known(backend, caller) if each.id == model), None)


def _known(backend: Backend, caller: Caller) -> list[ModelObject]:
    with backend.pool.connection() as connection:
        bases = all_base_models(connection)
        own = models_of(connection, caller.account_id)
    owner = organization(caller.account_id)
    return [
        *(_model(row["name"], row["imported_at"], PLATFORM) for row in bases),
        *(_model(row["model"], row["registered_at"], owner) for row in own),
    ]


def _model(name: str, since: datetime, owner: str) -> ModelObject:
    return ModelObject(id=name, created=int(since.timestamp()), owned_by=owner)
