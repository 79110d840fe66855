"""Schemas of exports."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, Field

from domain.exports.export import ExportFormat, ExportStatus
from gateway.schemas import Answer, JobId

MODEL = "ft:smollm2-135m-instruct:0b0f8f5c3a4e"


class ExportRequest(BaseModel, extra="forbid"):
    """The request for an export."""

    format: ExportFormat = Field(
        description="`safetensors` for transformers and vLLM, `gguf-f16` or `gguf-q8_0` for "
        "llama.cpp and Ollama.",
        examples=["gguf-q8_0"],
    )


class ExportFailure(Answer):
    """The reason for a failed export."""

    code: str = Field(examples=["no_space"])
    message: str
    advice: str = Field(description="What to do about the failure.")


class ExportAnswer(Answer):
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
