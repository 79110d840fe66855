"""Schemas of datasets."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, Field, SecretStr, StringConstraints

from domain.datasets.dataset import DatasetKind, DatasetStatus
from domain.datasets.filters import Filters
from gateway.schemas import ResponseModel


class Progress(ResponseModel):
    """Progress of a validation."""

    lines: int
    bytes: int = Field(examples=[19_600_000])
    total_bytes: int = Field(examples=[812_340])


class TokenCount(ResponseModel):
    """Token counts of a dataset and of its longest example, for one base model."""

    base_model: str = Field(examples=["smollm2-135m-instruct"])
    tokens: int = Field(examples=[184_000])
    longest_example: int


class DatasetResponse(ResponseModel):
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
        default=None, description="Dataset of which this one is a new version, or null."
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
    hub_commit: str | None = Field(
        default=None,
        description="Commit of the hub repository that the file is from, or null for an upload.",
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

    @property
    def origin(self) -> str:
        """The origin of this version, as sentences."""
        if self.filters is not None:
            return " ".join(self.filters.sentences())
        return "A new file, or other columns." if self.parent else "The first file."


def _none_if_blank(value: object) -> object:
    return None if value == "" else value


OptionalText = Annotated[
    Annotated[str, StringConstraints(max_length=200)] | None, BeforeValidator(_none_if_blank)
]


class HubDatasetRequest(BaseModel, extra="forbid"):
    """A split of a dataset repository on a Hugging Face hub."""

    repository: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$",
        description="Repository, such as `acme/support-chats`.",
        examples=["acme/support-chats"],
    )
    config: OptionalText = Field(default=None, description="Config. By default, the default one.")
    split: str = Field(default="train", min_length=1, max_length=200, description="Split.")
    revision: OptionalText = Field(
        default=None,
        description="Branch, tag or commit. EcoLink records the commit. By default, `main`.",
    )
    token: Annotated[SecretStr | None, BeforeValidator(_none_if_blank)] = Field(
        default=None,
        max_length=300,
        description="Token of the hub for a private repository. EcoLink does not store it.",
    )
    name: OptionalText = Field(default=None, description="Display name of the dataset.")
    keep_duplicates: bool = Field(default=False, description="Keep repeated lines.")
    ignore_tools: bool = Field(
        default=False, description="Remove tool definitions from the examples."
    )
    columns: dict[str, str] | None = Field(
        default=None,
        max_length=20,
        description="Column or key of each role. By default, EcoLink guesses the columns.",
    )


class HubFile(ResponseModel):
    """A file of a repository."""

    path: str = Field(examples=["data/train-00000-of-00001.parquet"])
    bytes: int
    sha256: str


class HubSourceResponse(ResponseModel):
    """The origin of a dataset in a repository on a hub."""

    repository: str = Field(examples=["acme/support-chats"])
    revision: str | None = Field(
        default=None, description="Branch, tag or commit in the request; null for `main`."
    )
    commit: str
    config: str | None
    split: str
    files: list[HubFile]
    url: str | None = Field(description="Address of the commit, or null if no hub is configured.")


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


class PreviewMessage(ResponseModel):
    """A message of a preview. Tool calls are shown as JSON after the text."""

    role: str
    content: str


class PreviewRow(ResponseModel):
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
    values: dict[str, str] = Field(
        description="Value of each column or key. Long values are cut.",
        examples=[{"id": "1", "question": "Hi?", "answer": "Hello."}],
    )
    problem: str | None = None


class ColumnsResponse(ResponseModel):
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
    unused: list[str] = Field(
        default_factory=list,
        description="Columns or keys without a role, which the examples do not use.",
        examples=[["id"]],
    )
    chosen: bool = Field(
        description="True if you chose the columns, false if EcoLink guessed them."
    )
    problem: str | None = Field(
        default=None, description="The reason why the columns make no examples."
    )
    rows: list[PreviewRow] = Field(description="The first rows, at most three.")
