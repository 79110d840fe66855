"""The catalog that an account sees: GPU types, regions, pools and base models."""

from __future__ import annotations

from domain.capacity.availability import PoolLoad
from domain.catalog.catalog import Catalog
from domain.catalog.catalog_entries import CatalogBase, GpuType, Region
from domain.catalog.display_names import DisplayNames
from domain.core.identity import CATALOG_ID
from domain.deployments.deployment import DeploymentStatus
from domain.estimating.footprint import FLOAT32, bytes_per_parameter
from domain.training.precision import Precision
from gateway.backend import Backend
from gateway.catalog.availability import pool_loads
from gateway.catalog.schemas import (
    CatalogBaseResponse,
    CatalogResponse,
    GpuTypeResponse,
    PoolResponse,
    RegionResponse,
)
from gateway.http.access import Caller
from gateway.schemas import Money
from projections.base_models import all_base_models
from projections.deployments import statuses
from projections.gpu_pools import all_gpu_pools
from projections.projection import Row


def display_names(backend: Backend) -> DisplayNames:
    """Return the display names of GPU types and regions."""
    return backend.log.load(Catalog, CATALOG_ID).display_names


def show_catalog(backend: Backend, caller: Caller) -> CatalogResponse:
    """Return the catalog with the current load of each pool."""
    catalog = backend.log.load(Catalog, CATALOG_ID)
    with backend.pool.connection() as connection:
        pools = all_gpu_pools(connection)
        imported = {row["name"] for row in all_base_models(connection)}
        deployed = statuses(connection, caller.account_id)
    loads = {(load.region, load.gpu_type): load for load in pool_loads(backend)}
    return CatalogResponse(
        version=catalog.version_text,
        gpu_types=[_gpu_type(kind) for kind in catalog.gpu_types.values()],
        regions=[_region(region, pools) for region in catalog.regions.values()],
        pools=[_pool(row, loads[row["region"], row["gpu_type"]]) for row in pools],
        base_models=[
            _base(base, base.name in imported, deployed.get(base.name))
            for base in catalog.bases.values()
        ],
    )


def _gpu_type(kind: GpuType) -> GpuTypeResponse:
    return GpuTypeResponse(
        gpu_type=kind.name,
        title=kind.title,
        backing=kind.backing,
        vram_gib=kind.vram_gib,
        bf16_tflops=kind.bf16_tflops,
        rate_per_hour=Money.price(kind.micros_per_hour),
        max_per_job=kind.max_per_job,
        source=kind.source,
    )


def _region(region: Region, pools: list[Row]) -> RegionResponse:
    there = [row["gpu_type"] for row in pools if row["region"] == region.name and row["capacity"]]
    return RegionResponse(region=region.name, title=region.title, gpu_types=sorted(there))


def _pool(row: Row, load: PoolLoad) -> PoolResponse:
    wait = load.wait_seconds(1)
    shown = {name: row[name] for name in PoolResponse.model_fields if name in row}
    return PoolResponse(**shown, free=load.free, wait_seconds=None if wait is None else round(wait))


def _base(
    base: CatalogBase, imported: bool, deployment: DeploymentStatus | None
) -> CatalogBaseResponse:
    shape = base.shape
    return CatalogBaseResponse(
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
