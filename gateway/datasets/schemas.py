"""Schemas of datasets."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, Field

from domain.datasets.dataset import DatasetKind, DatasetStatus
from domain.datasets.filters import Filters
from domain.datasets.quality_report import Contamination, Difference
from gateway.schemas import Answer
from infrastructure.comparisons import ComparisonState


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
    kind: DatasetKind | None = Field(
        default=None,
        description="`chats`, or `preferences` if each example has a preferred and a rejected "
        "answer.",
    )
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
    parent: UUID | None = Field(
        default=None,
        description="Dataset of which this one is a new version, or null.",
    )
    filters: Filters | None = Field(
        default=None,
        description="Filters of the parent's examples that made this version, or null.",
    )
    analyzed: int | None = Field(
        default=None,
        description="Number of examples whose quality was analyzed; null until the analysis ends.",
    )
    findings: dict[str, int] | None = Field(
        default=None,
        description="Number of examples by kind of finding; null until the analysis ends.",
        examples=[{"near_duplicate": 12, "email_address": 3}],
    )
    synthesis_id: UUID | None = Field(
        default=None, description="Synthesis that generated the examples, or null."
    )
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


class ColumnsRequest(BaseModel, extra="forbid"):
    """Columns of a new dataset from the same upload."""

    columns: dict[str, str] = Field(
        description="Column or key of each role: `messages`, or `user` and `assistant`, and "
        "optionally `system`, `input`, `history`, `tools` and `weight`. Preference pairs have "
        "`chosen` and `rejected`, and optionally `user` for the prompt.",
        examples=[{"user": "question", "assistant": "answer"}],
        max_length=20,
    )
    name: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Display name of the new dataset. By default, that of the existing one.",
    )


class FiltersRequest(BaseModel, extra="forbid"):
    """Filters of a new version of a dataset."""

    filters: Filters
    name: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Display name of the new version. By default, that of the dataset.",
    )


class ContaminationAnswer(Answer):
    """A comparison of a training dataset with a validation dataset."""

    state: ComparisonState = Field(
        description="`waiting` until the comparison is done. `failed` if it exceeded a limit."
    )
    result: Contamination | None = None


class DifferenceAnswer(Answer):
    """The difference between an older and a newer dataset."""

    state: ComparisonState = Field(
        description="`waiting` until the comparison is done. `failed` if it exceeded a limit."
    )
    base: UUID = Field(description="The older dataset.")
    result: Difference | None = None


class PreviewMessage(Answer):
    """A message of a preview. Tool calls are shown as JSON after the text."""

    role: str
    content: str


class PreviewRow(Answer):
    """A row of an upload as messages, or the reason why it has none."""

    row: int = Field(description="Number of the line or row, from 1.")
    messages: list[PreviewMessage] = Field(
        description="Messages of the chat, or of the prompt of a preference pair."
    )
    chosen: list[PreviewMessage] = Field(
        default_factory=list, description="Preferred answer of a preference pair."
    )
    rejected: list[PreviewMessage] = Field(
        default_factory=list, description="Rejected answer of a preference pair."
    )
    tools: int = Field(description="Number of defined tools.")
    problem: str | None = None


class ColumnsAnswer(Answer):
    """The format and columns of an upload, and its first rows as messages."""

    format: str = Field(examples=["CSV"])
    shape: str | None = Field(default=None, examples=["question and answer columns"])
    unit: str = Field(examples=["row"])
    names: list[str] = Field(
        description="Columns or keys of the upload.", examples=[["id", "question", "answer"]]
    )
    columns: dict[str, str] = Field(
        description="Column of each role.", examples=[{"user": "question", "assistant": "answer"}]
    )
    chosen: bool = Field(
        description="True if you chose the columns, false if EcoLink guessed them."
    )
    rows: list[PreviewRow] = Field(description="The first rows, at most three.")
