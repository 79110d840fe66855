"""Schemas of datasets and validation reports."""

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
    """A dataset. Its counts are null until it is validated."""

    id: UUID
    name: str | None = Field(examples=["support chats"])
    status: DatasetStatus
    total_bytes: int = Field(examples=[812_340])
    examples: int | None = Field(default=None, examples=[1200])
    duplicates: int | None = None
    tool_lines: int | None = Field(
        default=None, description="Lines with tool definitions, which training ignores."
    )
    tools_ignored: bool = Field(
        default=False, description="True if you confirmed that training ignores tool definitions."
    )
    obstacle: str | None = Field(
        default=None, description="The reason why no job can train on a ready dataset alone."
    )
    errors: int | None = None
    uploaded_at: datetime
    validated_at: datetime | None = None
    progress: Progress | None = Field(default=None, description="Set during validation.")
    tokens: list[TokenCount] = Field(description="Token counts, one for each base model.")
    counting: list[str] = Field(
        examples=[["smollm2-135m-instruct"]],
        description="Base models whose token count is not known yet.",
    )


class Excerpt(Answer):
    """Part of a line. If `end` is greater than `start`, the error is in `text[start:end]`.

    Each invisible character is replaced by one visible symbol.
    """

    text: str = Field(examples=["Where is my order?"])
    column: int = Field(description="Column of the first character in the line, from 1.")
    goes_on: bool = Field(description="True if the line continues after the excerpt.")
    start: int
    end: int


class LineProblem(Answer):
    """A validation error. `line` counts from 1. It is null for an error of the whole file."""

    line: int | None
    code: str
    message: str = Field(examples=["`messages` is missing."])
    excerpt: Excerpt | None = Field(default=None, description="Part of the line.")


class Notice(Answer):
    """A warning, the number of affected lines, and the first of them."""

    code: str
    message: str = Field(examples=["12 examples are duplicates."])
    count: int
    lines: list[int]


class ValidationReport(Answer):
    """Result of a validation. It has at most one error per line and 100 errors in total."""

    status: DatasetStatus
    examples: int = Field(examples=[1200])
    duplicates: int
    lines: int
    bytes: int = Field(examples=[19_600_000])
    warnings: list[Notice]
    errors: list[LineProblem]
    error_count: int
