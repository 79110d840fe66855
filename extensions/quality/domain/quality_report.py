"""The quality report of a dataset: findings by kind, and statistics of its examples."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from domain.core.value import Value
from domain.datasets.findings import Finding

TITLES: Mapping[Finding, str] = {
    Finding.NEAR_DUPLICATE: "Near-duplicates",
    Finding.HELD_OUT_LEAK: "Held-out examples that are also trained",
    Finding.EMAIL_ADDRESS: "E-mail addresses",
    Finding.PHONE_NUMBER: "Phone numbers",
    Finding.CREDIT_CARD: "Card numbers",
    Finding.IBAN: "Bank accounts (IBAN)",
    Finding.IP_ADDRESS: "Public IP addresses",
    Finding.NATIONAL_ID: "National ID numbers",
    Finding.CRYPTO_ADDRESS: "Cryptocurrency addresses",
    Finding.SECRET: "Keys and passwords",
    Finding.SHORT_ANSWER: "Very short answers",
    Finding.REFUSAL: "Refusals",
    Finding.TRUNCATED_ANSWER: "Answers that seem cut off",
    Finding.UNUSUALLY_LONG: "Unusually long examples",
    Finding.OTHER_LANGUAGE: "Examples in another language",
}

NO_TEXT = {"excerpt": "", "before": None, "after": None}


class Sample(Value):
    """One example with a finding. Personal data in the excerpt is hidden."""

    line: int = Field(description="Number of the line or row of the upload, from 1.")
    example: int = Field(description="Number of the example in the dataset, from 1.")
    excerpt: str = Field(examples=["write to j***@***.com"])
    before: str | None = Field(
        default=None, description="The excerpt with the found personal data, except secrets."
    )
    after: str | None = Field(default=None, description="The excerpt as masking changes it.")
    like_line: int | None = Field(
        default=None, description="Line or row of the similar example, for duplicates and leaks."
    )
    similarity: float | None = Field(
        default=None, description="Estimated Jaccard similarity with it, 0 to 1."
    )
    language: str | None = Field(default=None, description="Detected language (ISO 639-1).")


class Findings(Value):
    """The findings of one kind. `lines` and `samples` have the first of them."""

    kind: Finding
    examples: int = Field(description="Number of examples with a finding of this kind.")
    occurrences: int = Field(description="Number of findings, of which an example may have many.")
    lines: tuple[int, ...]
    samples: tuple[Sample, ...]


class Bar(Value):
    """The number of examples with a value above that of the previous bar, up to `up_to`."""

    up_to: int
    examples: int


class Distribution(Value):
    """Values of the examples, such as their number of characters."""

    least: int = 0
    median: int = 0
    p95: int = 0
    most: int = 0
    total: int = 0
    bars: tuple[Bar, ...] = ()


class Language(Value):
    """The number of examples in a language. `und` means that it is unknown."""

    code: str = Field(examples=["en"])
    examples: int


class Statistics(Value):
    """Statistics of the analyzed examples."""

    characters: Distribution = Distribution()
    messages: Distribution = Distribution()
    answer_characters: Distribution = Distribution()
    with_system_prompt: int = 0
    distinct_system_prompts: int = 0
    multi_turn: int = Field(default=0, description="Examples with several user messages.")
    with_tool_calls: int = 0
    assistant_share: float = Field(
        default=0, description="Share of the text that assistant messages have, 0 to 1."
    )
    languages: tuple[Language, ...] = ()


class QualityReport(Value):
    """The result of an analysis of a valid dataset.

    `analyzed` is less than `examples` if the analysis stopped at a limit. `compared` counts the
    examples whose near-duplicates EcoLink looked for in all earlier ones. `held_out` is the number
    of examples that a job with default seed would hold out.
    """

    unit: str = Field(description="`row` if the numbers of lines count rows, otherwise `line`.")
    examples: int
    analyzed: int
    compared: int
    crowded: int = Field(
        default=0,
        description="Number of examples that share much text with 500 others or more. EcoLink "
        "compared each with 500 of them.",
    )
    held_out: int = 0
    stopped: str | None = Field(
        default=None, description="`time` or `memory` if the analysis stopped at this limit."
    )
    findings: tuple[Findings, ...] = ()
    statistics: Statistics = Statistics()

    @property
    def counts(self) -> dict[Finding, int]:
        """The number of examples with a finding, by kind."""
        return {each.kind: each.examples for each in self.findings}

    def without_excerpts(self) -> QualityReport:
        """Return the report without any text of the examples."""
        findings = tuple(
            each.model_copy(
                update={
                    "samples": tuple(sample.model_copy(update=NO_TEXT) for sample in each.samples)
                }
            )
            for each in self.findings
        )
        return self.model_copy(update={"findings": findings})

    def of_kind(self, kind: Finding) -> Findings | None:
        """Return the findings of a kind, or None if there are none."""
        return next((each for each in self.findings if each.kind is kind), None)


class Contamination(Value):
    """Training examples that are also in a validation dataset, exactly or nearly.

    `affected` is the number of different validation examples with such a training example.
    """

    unit: str
    examples: int = Field(description="Number of compared training examples.")
    total: int | None = Field(default=None, description="Number of training examples.")
    validation_examples: int = Field(description="Number of compared validation examples.")
    validation_total: int | None = Field(default=None, description="Number of validation examples.")
    exact: int = Field(description="Training examples that equal a validation example.")
    near: int = Field(description="Training examples that nearly equal one.")
    affected: int
    lines: tuple[int, ...] = Field(description="Lines of the first such training examples.")
    samples: tuple[Sample, ...]
    stopped: str | None = Field(
        default=None, description="`time` if the comparison stopped at this limit."
    )

    @property
    def is_partial(self) -> bool:
        """True if EcoLink did not compare all examples."""
        return self.examples < (self.total or 0) or self.validation_examples < (
            self.validation_total or 0
        )


class Change(Value):
    """An added, removed or changed example. A text is shortened."""

    line: int | None = Field(description="Line or row in the newer dataset; null if removed.")
    old_line: int | None = Field(description="Line or row in the older dataset; null if added.")
    text: str | None = None
    old_text: str | None = None


class Difference(Value):
    """The difference between an older and a newer dataset. The lists have the first changes."""

    unit: str
    old_unit: str
    old_examples: int
    examples: int
    unchanged: int
    added: int
    removed: int
    changed: int
    added_examples: tuple[Change, ...] = ()
    removed_examples: tuple[Change, ...] = ()
    changed_examples: tuple[Change, ...] = ()
