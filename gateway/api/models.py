"""Base models that can be fine-tuned, and the caller's own models."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from domain.aggregate import because
from domain.catalog import Catalog
from domain.deployment import DeploymentStatus
from domain.identity import CATALOG_ID
from gateway.access import Caller, CallerOf
from gateway.answers import Answer, JobId
from gateway.backend import Backend, BackendOf
from gateway.errors import refusals
from gateway.freshness import caught_up, found
from gateway.pages import Limit, Page
from projections import DEPLOYMENTS, JOB_DETAIL, MODELS
from projections.base_models import all_base_models
from projections.deployments import statuses
from projections.models import model_of, models_of
from projections.projection import Row

router = APIRouter(tags=["models"])


class BaseModelAnswer(Answer):
    """A base model in the model store."""

    name: str
    architecture: str = Field(examples=["LlamaForCausalLM"])
    parameters: int
    context_length: int
    imported_at: datetime
    eligible: bool = Field(description="Whether the operator offers it for fine-tuning.")
    deployment: DeploymentStatus | None = Field(
        description="Jobs may fine-tune an eligible base whose deployment is active."
    )


class ModelAnswer(Answer):
    """A model that a job of the caller registered."""

    model: str = Field(examples=["ft:smollm2-135m-instruct:0b0f8f5c3a4e"])
    job_id: JobId
    adapter_ref: str
    registered_at: datetime
    deployment: DeploymentStatus | None = Field(description="null: it was never deployed.")


class Models(Answer):
    """Base models, and the caller's own."""

    base_models: list[BaseModelAnswer]
    models: list[ModelAnswer]
    has_more: bool = Field(description="Whether there are more models of the caller's after these.")


@router.get("/models", responses=refusals(404))
def list_models(
    caller: CallerOf,
    backend: BackendOf,
    after: Annotated[
        str | None, Query(description="Only the caller's models that come after this one.")
    ] = None,
    limit: Limit = None,
) -> Models:
    """Base models by name, and the caller's own models, the newest first."""
    if after is not None:
        own_model(backend, caller, after)
    catalog = backend.log.load(Catalog, CATALOG_ID)
    with backend.pool.connection() as connection:
        bases = all_base_models(connection)
        deployed = statuses(connection, caller.account_id)
        own = Page[ModelAnswer].of(
            partial(models_of, connection, caller.account_id, after),
            limit,
            lambda row: ModelAnswer(**row, deployment=deployed.get(row["model"])),
        )
    return Models(
        base_models=[
            BaseModelAnswer(
                **row,
                eligible=catalog.is_eligible(row["name"]),
                deployment=deployed.get(row["name"]),
            )
            for row in bases
        ],
        models=own.data,
        has_more=own.has_more,
    )


@router.delete("/models/{model}", status_code=204, responses=refusals(404))
def drop_model(model: str, caller: CallerOf, backend: BackendOf) -> None:
    """Delete a model of the caller and the checkpoints of its job; none of them answers any more.

    The job, its bill and its measurements stay.
    """
    delete_model(backend, caller, model)


def delete_model(backend: Backend, caller: Caller, model: str) -> None:
    """Delete a caller's model; raises NotFound."""
    row = own_model(backend, caller, model)
    with because(caller.cause(backend)):
        backend.deploying.delete_model(caller.account_id, row["job_id"])
    caught_up(backend, MODELS, JOB_DETAIL, DEPLOYMENTS)


def own_model(backend: Backend, caller: Caller, model: str) -> Row:
    """The row of a caller's model; raises NotFound, also for another account's."""
    return found(
        backend,
        MODELS,
        lambda connection: model_of(connection, caller.account_id, model),
        f"no model {model}",
    )
