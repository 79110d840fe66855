"""Base models that can be fine-tuned, and the caller's own models."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from pydantic import Field

from domain.catalog import Catalog
from domain.deployment import DeploymentStatus
from domain.identity import CATALOG_ID
from gateway.access import CallerOf
from gateway.answers import Answer, JobId
from gateway.backend import BackendOf
from projections.base_models import all_base_models
from projections.deployments import statuses
from projections.models import models_of

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


@router.get("/models")
def list_models(caller: CallerOf, backend: BackendOf) -> Models:
    """Base models by name, and the caller's own models, the newest first."""
    catalog = backend.log.load(Catalog, CATALOG_ID)
    with backend.pool.connection() as connection:
        bases = all_base_models(connection)
        own = models_of(connection, caller.account_id)
        deployed = statuses(connection, caller.account_id)
    return Models(
        base_models=[
            BaseModelAnswer(
                **row,
                eligible=catalog.is_eligible(row["name"]),
                deployment=deployed.get(row["name"]),
            )
            for row in bases
        ],
        models=[ModelAnswer(**row, deployment=deployed.get(row["model"])) for row in own],
    )
