"""Schemas of base models, fine-tuned models, deployments and files."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import Field

from domain.deployments.deployment import DeploymentStatus
from domain.jobs.lifecycle import JobStatus
from gateway.schemas import JobId, ResponseModel


class BaseModelResponse(ResponseModel):
    """A base model in the model store."""

    name: str = Field(examples=["smollm2-135m-instruct"])
    architecture: str = Field(examples=["LlamaForCausalLM"])
    parameters: int
    context_length: int
    imported_at: datetime
    bytes_per_parameter_bf16: float | None = Field(
        description="GPU memory per parameter for weights in bf16, or null if the model's shape "
        "is unknown."
    )
    bytes_per_parameter_nf4: float | None = Field(
        description="GPU memory per parameter, for weights in 4 bits, and embeddings and head in "
        "bf16."
    )
    bytes_per_parameter_fp32: float | None = Field(
        description="Host memory per parameter on a CPU, where the memory estimate uses float32."
    )
    bytes_per_parameter_nf4_fp32: float | None = Field(
        description="Memory per parameter, for weights in 4 bits, and embeddings and head in "
        "float32."
    )
    linear_modules: list[str] = Field(
        description="Names of the linear modules that an adapter can target."
    )
    eligible: bool = Field(description="True if the operator allows fine-tuning of the base model.")
    deployment: DeploymentStatus | None = Field(
        description="Status of the base model's deployment. Jobs can fine-tune an eligible "
        "base model only while its deployment is active."
    )


class ModelResponse(ResponseModel):
    """A fine-tuned model of your account."""

    model: str = Field(examples=["ft:smollm2-135m-instruct:0b0f8f5c3a4e"])
    job_id: JobId
    base_model: str = Field(examples=["smollm2-135m-instruct"])
    dataset_id: UUID
    adapter_ref: str = Field(examples=["adapters/0b0f8f5c3a4e5d0c9a4d0e6b1c2d3e4f"])
    registered_at: datetime
    loss_before: float | None = Field(
        examples=[2.71],
        description="Held-out loss of the base model, or null if the job was not evaluated.",
    )
    loss_after: float | None = Field(
        examples=[1.94], description="Held-out loss of the fine-tuned model."
    )
    deployment: DeploymentStatus | None = Field(
        description="Status of the model's deployment, or null if the model was never deployed."
    )


class KeptAdapter(ResponseModel):
    """The last checkpoint of a cancelled or failed job, which you can promote to a model."""

    job_id: JobId
    status: JobStatus
    base_model: str = Field(examples=["smollm2-135m-instruct"])
    dataset_id: UUID
    step: int = Field(examples=[40], description="Step of the checkpoint.")
    train_loss: float = Field(
        examples=[1.92], description="Mean loss over the trainable tokens of that step."
    )
    ended_at: datetime
    expires_at: datetime | None = Field(
        description="Time at which EcoLink deletes the adapter, or null if it keeps the adapter."
    )


class Models(ResponseModel):
    """Base models, fine-tuned models and kept adapters."""

    base_models: list[BaseModelResponse]
    models: list[ModelResponse]
    kept: list[KeptAdapter]
    has_more: bool = Field(description="True if more of your models follow.")


class DeploymentFailure(ResponseModel):
    """The reason for a failed deployment."""

    code: str = Field(examples=["weights_missing"])
    message: str
    advice: str = Field(description="What to do about the failure.")


class DeploymentResponse(ResponseModel):
    """The deployment of a base model, a fine-tuned model or a checkpoint."""

    id: UUID
    model: str = Field(
        description="Name of the model in requests.",
        examples=["ft:smollm2-135m-instruct:0b0f8f5c3a4e"],
    )
    status: DeploymentStatus
    base_model: str = Field(examples=["smollm2-135m-instruct"])
    job_id: JobId | None = Field(
        description="Job that trained the adapter, or null for a base model."
    )
    step: int | None = Field(
        examples=[40], description="Step of a deployed checkpoint, otherwise null."
    )
    requested_at: datetime
    changed_at: datetime
    failure: DeploymentFailure | None = Field(examples=[None])


class ModelFileResponse(ResponseModel):
    """A file of a model or a checkpoint."""

    path: str = Field(examples=["adapter_model.safetensors"])
    bytes: int = Field(examples=[19_600_000])
    sha256: str = Field(
        examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
        description="SHA-256 of the file, which is also its ETag.",
    )
