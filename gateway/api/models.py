"""What can be trained, and where: base models, the caller's own models, and the catalog."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from pydantic import Field

from domain.catalog import catalog
from gateway.access import CallerOf
from gateway.answers import Answer, JobId, Money
from gateway.backend import BackendOf
from projections.base_models import all_base_models
from projections.gpu_pools import all_gpu_pools
from projections.models import models_of

router = APIRouter(tags=["models"])


class BaseModelAnswer(Answer):
    """A base that jobs can fine-tune."""

    name: str
    architecture: str = Field(examples=["LlamaForCausalLM"])
    parameters: int
    context_length: int
    imported_at: datetime


class ModelAnswer(Answer):
    """A model that a job of the caller registered."""

    model: str = Field(examples=["ft:smollm2-135m-instruct:0b0f8f5c"])
    job_id: JobId
    adapter_ref: str
    registered_at: datetime


class Models(Answer):
    """Base models, and the caller's own."""

    base_models: list[BaseModelAnswer]
    models: list[ModelAnswer]


class GpuTypeAnswer(Answer):
    """A GPU type at its hourly price."""

    gpu_type: str = Field(examples=["cpu"])
    name: str
    rate_per_hour: Money


class RegionAnswer(Answer):
    """Where GPUs stand, and of which types."""

    region: str = Field(examples=["local"])
    name: str
    gpu_types: list[str]


class PoolAnswer(Answer):
    """GPUs of one type in one region: how many there are, are held, and are waited for."""

    region: str
    gpu_type: str
    capacity: int
    held: int
    waiting: int = Field(description="Segments that wait for GPUs.")


class CatalogAnswer(Answer):
    """What the platform offers, and what of it is free."""

    version: str
    gpu_types: list[GpuTypeAnswer]
    regions: list[RegionAnswer]
    pools: list[PoolAnswer]


@router.get("/models")
def list_models(caller: CallerOf, backend: BackendOf) -> Models:
    """Base models by name, and the caller's own models, the newest first."""
    with backend.pool.connection() as connection:
        bases = all_base_models(connection)
        own = models_of(connection, caller.account_id)
    return Models(
        base_models=[BaseModelAnswer(**row) for row in bases],
        models=[ModelAnswer(**row) for row in own],
    )


@router.get("/catalog")
def show_catalog(caller: CallerOf, backend: BackendOf) -> CatalogAnswer:
    """GPU types with their rates, regions, and the state of each pool."""
    offered = catalog()
    with backend.pool.connection() as connection:
        pools = all_gpu_pools(connection)
    return CatalogAnswer(
        version=offered.version,
        gpu_types=[
            GpuTypeAnswer(
                gpu_type=key, name=kind.name, rate_per_hour=Money.of(kind.micros_per_hour)
            )
            for key, kind in offered.gpu_types.items()
        ],
        regions=[
            RegionAnswer(region=key, name=region.name, gpu_types=list(region.gpu_types))
            for key, region in offered.regions.items()
        ],
        pools=[PoolAnswer(**row) for row in pools],
    )
