"""Schemas of exports."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, Field, SecretStr

from extensions.exports.domain.export import ExportFormat, ExportStatus
from extensions.exports.domain.hub_push import PushStatus
from gateway.schemas import JobId, ResponseModel

MODEL = "ft:smollm2-135m-instruct:0b0f8f5c3a4e"


class ExportRequest(BaseModel, extra="forbid"):
    """The request for an export."""

    format: ExportFormat = Field(
        description="`safetensors` for transformers and vLLM, `gguf-f16` or `gguf-q8_0` for "
        "llama.cpp and Ollama.",
        examples=["gguf-q8_0"],
    )


class ExportFailure(ResponseModel):
    """The reason for a failed export."""

    code: str = Field(examples=["no_space"])
    message: str
    advice: str = Field(description="What to do about the failure.")


class ExportResponse(ResponseModel):
    """An export of a fine-tuned model. A model has at most one in each format."""

    id: UUID
    model: str = Field(examples=[MODEL])
    job_id: JobId
    format: ExportFormat
    status: ExportStatus = Field(
        description="`pending` while the export waits or runs. After `failed` and `expired`, you "
        "can request it again."
    )
    progress: float | None = Field(
        description="Share that is done, from 0 to 1, while the export runs.", examples=[0.42]
    )
    requested_at: datetime
    ended_at: datetime | None
    expires_at: datetime | None = Field(description="Time at which EcoLink deletes the files.")
    total_bytes: int | None = Field(description="Size of all files.", examples=[144_812_345])
    manifest_sha256: str | None = Field(
        description="SHA-256 of the manifest, which lists the hash of every file.",
        examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    )
    failure: ExportFailure | None = Field(examples=[None])


class PushRequest(BaseModel, extra="forbid"):
    """A repository of a Hugging Face hub, and a token that may write to it."""

    repository: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$",
        description="Repository. EcoLink creates it unless it exists.",
        examples=["acme/support-bot"],
    )
    token: SecretStr = Field(
        min_length=1,
        max_length=300,
        description="Token of the hub. EcoLink stores it until the push ends.",
        examples=["hf_..."],
    )
    private: bool = Field(
        default=True,
        description="Create a private repository, and refuse one that exists and is public. With "
        "`false`, a new repository is public, and one that exists keeps its visibility.",
    )
    provenance: bool = Field(
        default=True,
        description="Also push `provenance.json`, which contains the hashes of the dataset, and "
        "the hardware, region and cost of the job. The model card and `export.json` are always "
        "pushed. They contain the IDs of the account and the job, the results, the "
        "hyperparameters, and hashes of the files.",
    )


class PushFailure(ResponseModel):
    """The reason for a failed push."""

    code: str = Field(examples=["unauthorized"])
    message: str
    advice: str = Field(description="What to do about the failure.")


class PushResponse(ResponseModel):
    """A push of an export to a repository of a hub."""

    id: UUID
    model: str = Field(examples=[MODEL])
    format: ExportFormat
    repository: str = Field(examples=["acme/support-bot"])
    private: bool = Field(
        description="True if the push requires a private repository. With `false`, a repository "
        "that existed keeps its visibility."
    )
    provenance: bool = Field(description="True if the push includes `provenance.json`.")
    status: PushStatus
    progress: float | None = Field(
        description="Share that is uploaded, from 0 to 1, while the push runs.", examples=[0.42]
    )
    manifest_sha256: str = Field(description="SHA-256 of the manifest of the pushed export.")
    commit: str | None = Field(description="Hash of the hub's commit.")
    url: str | None = Field(description="Address of the hub's commit.")
    requested_at: datetime
    ended_at: datetime | None
    failure: PushFailure | None = Field(examples=[None])
    last_error: str | None = Field(
        description="The reason why the last attempt failed, while EcoLink tries again.",
        examples=[None],
    )
