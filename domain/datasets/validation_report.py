"""The report of a validation: the status, errors and warnings of a file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from domain.datasets.dataset import DatasetKind, DatasetStatus


class Excerpt(BaseModel):
    """Part of a line. If `end` is greater than `start`, `text[start:end]` has the error.

    One visible symbol replaces each invisible character.
    """

    model_config = ConfigDict(frozen=True)

    text: str = Field(examples=["Where is my order?"])
    column: int = Field(description="Column of the first character in the line, from 1.")
    goes_on: bool = Field(description="True if the line continues after the excerpt.")
    start: int
    end: int


class LineProblem(BaseModel):
    """A validation error. `line` is null if the error concerns the whole file."""

    model_config = ConfigDict(frozen=True)

    line: int | None = Field(description="Number of the line or row, from 1.")
    code: str
    message: str = Field(examples=["`messages` is missing."])
    excerpt: Excerpt | None = Field(
        default=None, description="Part of the line; null for auditors."
    )


class Notice(BaseModel):
    """A warning, with the number of affected lines and the first of them.

    A warning about the whole file has no lines.
    """

    model_config = ConfigDict(frozen=True)

    code: str
    message: str = Field(examples=["12 examples are duplicates."])
    count: int
    lines: tuple[int, ...]


class ValidationReport(BaseModel):
    """The result of a validation, with at most one error per line and 100 errors in total."""

    model_config = ConfigDict(frozen=True)

    status: DatasetStatus
    format: str = Field(
        default="JSONL",
        description="Format of the file, such as `JSONL in gzip`, `CSV` or `Parquet`.",
        examples=["JSONL"],
    )
    shape: str | None = Field(
        default=None,
        description="Form of its examples, such as `ShareGPT` or `Alpaca`; null if unknown.",
        examples=["OpenAI messages"],
    )
    kind: DatasetKind = Field(
        default=DatasetKind.CHATS,
        description="`chats`, or `preferences` if each example has a preferred and a rejected "
        "answer.",
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Column or key of each role, as EcoLink guessed it or you chose it.",
        examples=[{"messages": "messages"}],
    )
    columns_chosen: bool = Field(default=False, description="True if you chose the columns.")
    unit: str = Field(
        default="line",
        description="`row` if the numbers of errors and warnings count rows, otherwise `line`.",
    )
    examples: int = Field(examples=[1200])
    duplicates: int
    examples_with_tools: int = Field(default=0, description="Examples that define tools.")
    lines: int
    bytes: int = Field(examples=[19_600_000])
    warnings: tuple[Notice, ...]
    errors: tuple[LineProblem, ...]
    error_count: int

    def without_texts(self) -> ValidationReport:
        """Return the report without excerpts, names of keys, and messages that may quote a line."""
        errors = tuple(
            LineProblem(
                line=each.line,
                code=each.code,
                message=f"The {'file' if each.line is None else self.unit} has the error "
                f"`{each.code}`.",
            )
            for each in self.errors
        )
        warnings = tuple(
            each.model_copy(update={"message": f"The file has the warning `{each.code}`."})
            for each in self.warnings
        )
        return self.model_copy(update={"errors": errors, "warnings": warnings, "columns": {}})

    @property
    def is_json(self) -> bool:
        """True for JSONL and JSON arrays, whose rows may have keys that the first ones lack."""
        return self.format.startswith("JSON")
