"""Schemas of the catalog."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from domain.deployments.deployment import DeploymentStatus
from gateway.schemas import Money, ResponseModel


class GpuTypeResponse(ResponseModel):
    """A GPU type with its hourly rate."""

    gpu_type: str = Field(examples=["l4"])
    title: str = Field(examples=["CPU, 8 GiB"])
    backing: Literal["nvidia", "cpu"] = Field(description="Hardware that runs the jobs.")
    vram_gib: float
    bf16_tflops: float = Field(description="Peak dense bf16 throughput.")
    rate_per_hour: Money
    max_per_job: int
    source: str = Field(examples=["list price, 2026-11"])


class RegionResponse(ResponseModel):
    """A region and its GPU types."""

    region: str = Field(examples=["local"])
    title: str = Field(examples=["CPU, 8 GiB"])
    gpu_types: list[str]


class PoolResponse(ResponseModel):
    """GPUs of one type in one region."""

    region: str = Field(examples=["local"])
    gpu_type: str = Field(examples=["cpu"])
    capacity: int = Field(examples=[4])
    held: int
    free: int
    waiting: int = Field(description="Jobs in the queue.")
    wait_seconds: int | None = Field(
        description="Expected wait of a job that needs one GPU, or null if unknown."
    )


class CatalogBaseResponse(ResponseModel):
    """A base model in the catalog."""

    name: str = Field(examples=["smollm2-135m-instruct"])
    repository: str = Field(examples=["HuggingFaceTB/SmolLM2-135M-Instruct"])
    parameters: int
    layers: int
    hidden_size: int
    context_length: int
    bytes_per_parameter_bf16: float = Field(
        description="GPU memory per parameter, for weights in bf16."
    )
    bytes_per_parameter_nf4: float = Field(
        description="GPU memory per parameter, for weights in 4 bits, and embeddings and head in "
        "bf16."
    )
    bytes_per_parameter_fp32: float = Field(
        description="Host memory per parameter on a CPU, where the memory estimate uses float32."
    )
    bytes_per_parameter_nf4_fp32: float = Field(
        description="Memory per parameter, for weights in 4 bits, and embeddings and head in "
        "float32."
    )
    eligible: bool = Field(description="True if the operator allows fine-tuning of the base model.")
    imported: bool = Field(description="True if the model store has the files of the base model.")
    deployment: DeploymentStatus | None = Field(
        description="Status of the base model's deployment. Jobs can fine-tune an eligible "
        "base model only while its deployment is active."
    )


class CatalogResponse(ResponseModel):
    """GPU types, regions, pools and base models."""

    version: str
    gpu_types: list[GpuTypeResponse]
    regions: list[RegionResponse]
    pools: list[PoolResponse]
    base_models: list[CatalogBaseResponse]
