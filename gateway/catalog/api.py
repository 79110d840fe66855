"""The catalog: GPU types with their rates, regions, pools, and base models."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import Field

from domain.capacity.availability import PoolLoad
from domain.catalog.catalog import Catalog
from domain.catalog.catalog_entries import CatalogBase, GpuType, Region
from domain.core.identity import CATALOG_ID
from domain.deployments.deployment import DeploymentStatus
from domain.estimating.footprint import FLOAT32, bytes_per_parameter
from domain.training.precision import Precision
from gateway.backend import BackendOf
from gateway.catalog.availability import pool_loads
from gateway.http.access import CallerOf
from gateway.schemas import Answer, Money
from projections.base_models import all_base_models
from projections.deployments import statuses
from projections.gpu_pools import all_gpu_pools
from projections.projection import Row

router = APIRouter(prefix="/catalog", tags=["catalog"])


class GpuTypeAnswer(Answer):
    """A GPU type at its hourly price."""

    gpu_type: str = Field(examples=["l4"])
    title: str
    backing: Literal["nvidia", "cpu"] = Field(description="What runs the jobs.")
    vram_gib: float
    bf16_tflops: float = Field(description="Dense peak.")
    rate_per_hour: Money
    max_per_job: int
    source: str


class RegionAnswer(Answer):
    """Where GPUs stand, and of which types."""

    region: str = Field(examples=["local"])
    title: str
    gpu_types: list[str]


class PoolAnswer(Answer):
    """GPUs of one type in one region: how many there are, are held, and are waited for."""

    region: str
    gpu_type: str
    capacity: int
    held: int
    free: int
    waiting: int = Field(description="Segments that wait for GPUs.")
    wait_seconds: int | None = Field(description="Expected wait of a job that needs one of them.")


class CatalogBaseAnswer(Answer):
    """A base model that the platform knows, and whether jobs can use it now."""

    name: str
    repository: str
    parameters: int
    layers: int
    hidden_size: int
    context_length: int
    bytes_per_parameter_bf16: float = Field(description="Of GPU memory, for the weights.")
    bytes_per_parameter_nf4: float = Field(description="In 4 bits, embeddings and head in bf16.")
    bytes_per_parameter_fp32: float = Field(
        description="Where a GPU type stands for a CPU: the memory fit reckons with float32 then."
    )
    bytes_per_parameter_nf4_fp32: float = Field(
        description="In 4 bits, embeddings and head in float32."
    )
    eligible: bool = Field(description="Whether the operator offers it for fine-tuning.")
    imported: bool = Field(description="Whether its files are in the model store.")
    deployment: DeploymentStatus | None = Field(
        description="Jobs may fine-tune an eligible base whose deployment is active."
    )


class CatalogAnswer(Answer):
    """What the platform offers, and what of it is free."""

    version: str
    gpu_types: list[GpuTypeAnswer]
    regions: list[RegionAnswer]
    pools: list[PoolAnswer]
    base_models: list[CatalogBaseAnswer]


@router.get("")
def show_catalog(caller: CallerOf, backend: BackendOf) -> CatalogAnswer:
    """GPU types with their rates, regions, the state of each pool, and known bases."""
    offered = backend.log.load(Catalog, CATALOG_ID)
    with backend.pool.connection() as connection:
        pools = all_gpu_pools(connection)
        imported = {row["name"] for row in all_base_models(connection)}
        deployed = statuses(connection, caller.account_id)
    loads = {(load.region, load.gpu_type): load for load in pool_loads(backend)}
    return CatalogAnswer(
        version=offered.version_text,
        gpu_types=[_gpu_type(kind) for kind in offered.gpu_types.values()],
        regions=[_region(region, pools) for region in offered.regions.values()],
        pools=[_pool(row, loads[row["region"], row["gpu_type"]]) for row in pools],
        base_models=[
            _base(base, base.name in imported, deployed.get(base.name))
            for base in offered.bases.values()
        ],
    )


def _gpu_type(kind: GpuType) -> GpuTypeAnswer:
    return GpuTypeAnswer(
        gpu_type=kind.name,
        title=kind.title,
        backing=kind.backing,
        vram_gib=kind.vram_gib,
        bf16_tflops=kind.bf16_tflops,
        rate_per_hour=Money.price(kind.micros_per_hour),
        max_per_job=kind.max_per_job,
        source=kind.source,
    )


def _region(region: Region, pools: list[Row]) -> RegionAnswer:
    there = [row["gpu_type"] for row in pools if row["region"] == region.name and row["capacity"]]
    return RegionAnswer(region=region.name, title=region.title, gpu_types=sorted(there))


def _pool(row: Row, load: PoolLoad) -> PoolAnswer:
    wait = load.wait_seconds(1)
    shown = {name: row[name] for name in PoolAnswer.model_fields if name in row}
    return PoolAnswer(**shown, free=load.free, wait_seconds=None if wait is None else round(wait))


def _base(
    base: CatalogBase, imported: bool, deployment: DeploymentStatus | None
) -> CatalogBaseAnswer:
    shape = base.shape
    return CatalogBaseAnswer(
        name=base.name,
        repository=base.repository,
        parameters=shape.parameters,
        layers=shape.layers,
        hidden_size=shape.hidden_size,
        context_length=shape.context_length,
        bytes_per_parameter_bf16=bytes_per_parameter(shape, Precision.BF16),
        bytes_per_parameter_nf4=bytes_per_parameter(shape, Precision.NF4),
        bytes_per_parameter_fp32=bytes_per_parameter(shape, Precision.BF16, FLOAT32),
        bytes_per_parameter_nf4_fp32=bytes_per_parameter(shape, Precision.NF4, FLOAT32),
        eligible=base.eligible,
        imported=imported,
        deployment=deployment,
    )
