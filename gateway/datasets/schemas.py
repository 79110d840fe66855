"""Schemas of datasets."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import Field

from domain.datasets.dataset import DatasetStatus
from gateway.schemas import Answer


class Progress(Answer):
    """Progress of a validation."""

    lines: int
    bytes: int = Field(examples=[19_600_000])
    total_bytes: int = Field(examples=[812_340])


class TokenCount(Answer):
    """Token counts of a dataset and of its longest example, for one base model."""

    base_model: str = Field(examples=["smollm2-135m-instruct"])
    tokens: int = Field(examples=[184_000])
    longest_example: int


class DatasetAnswer(Answer):
    """A dataset. Its counts are null until its validation is complete."""

    id: UUID
    name: str | None = Field(examples=["support chats"])
    status: DatasetStatus
    total_bytes: int = Field(examples=[812_340])
    examples: int | None = Field(default=None, examples=[1200])
    duplicates: int | None = None
    tool_lines: int | None = Field(
        default=None, description="Lines whose tool definitions training ignores."
    )
    tools_ignored: bool = Field(
        default=False, description="True if you chose that training ignores tool definitions."
    )
    obstacle: str | None = Field(
        default=None,
        description="Sentence that explains why no job can train on this dataset alone, or null.",
    )
    errors: int | None = None
    uploaded_at: datetime
    validated_at: datetime | None = None
    progress: Progress | None = Field(
        default=None, description="Progress of the validation, or null if no validation is running."
    )
    tokens: list[TokenCount] = Field(description="Token counts, one for each base model.")
    counting: list[str] = Field(
        examples=[["smollm2-135m-instruct"]],
        description="Base models whose token count is not known yet.",
    )
