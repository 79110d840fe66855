"""Filters that make a new version of a dataset."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, cast
from uuid import UUID

from pydantic import Field, field_validator, model_validator

from domain.core.errors import Invalid
from domain.core.value import Value
from domain.datasets.findings import ANSWERS, PERSONAL, Finding

LANGUAGE = re.compile(r"[a-z]{2,3}", re.ASCII)
"""Codes of ISO 639."""

DEFAULT_SIMILARITY, LEAST_SIMILARITY = 0.7, 0.5
"""Jaccard similarity of the character 5-grams of two texts, from which they are near-duplicates."""

MOST_LANGUAGES = 50
MOST_CHARACTERS = 2**31


class PersonalData(StrEnum):
    """Treatments of examples with personal data."""

    KEEP = "keep"
    MASK = "mask"
    REMOVE = "remove"


class Filters(Value):
    """The examples that a new version of a dataset leaves out, and the text that it masks.

    It has enums, numbers and IDs only, so events may hold it. Equal filters of the same dataset
    give the same examples.
    """

    near_duplicates: bool = Field(
        default=False,
        description="Remove examples that are nearly equal to an earlier one. The first is kept.",
    )
    contaminates: UUID | None = Field(
        default=None,
        description="Validation dataset. Remove examples that equal one of it, or nearly do.",
    )
    similarity: float = Field(
        default=DEFAULT_SIMILARITY,
        ge=LEAST_SIMILARITY,
        le=1,
        description="Least similarity of near-duplicates and of examples of the validation "
        "dataset. It is the Jaccard similarity of their sequences of five characters. With the "
        "default, up to about one word in ten differs, and with 0.5, one in four.",
    )
    personal_data: PersonalData = Field(
        default=PersonalData.KEEP,
        description="Mask the found personal data, or remove the examples that have some.",
    )
    personal_kinds: tuple[Finding, ...] = Field(
        default=PERSONAL, description="Kinds of personal data to mask or remove. By default, all."
    )
    answers: tuple[Finding, ...] = Field(
        default=(),
        description="Remove examples whose last answer is a `short_answer`, a `refusal` or a "
        "`truncated_answer`.",
    )
    min_characters: Annotated[int, Field(ge=0, le=MOST_CHARACTERS)] | None = Field(
        default=None, description="Remove examples with less text, in characters."
    )
    max_characters: Annotated[int, Field(ge=1, le=MOST_CHARACTERS)] | None = Field(
        default=None, description="Remove examples with more text, in characters."
    )
    languages: tuple[str, ...] = Field(
        default=(),
        description="Keep only examples in these languages (codes of ISO 639-1). Examples whose "
        "language is unknown are kept.",
        examples=[["en", "de"]],
        max_length=MOST_LANGUAGES,
    )

    @field_validator("personal_kinds", mode="before")
    @classmethod
    def _order_personal(cls, kinds: object) -> object:
        return _in_order(kinds, PERSONAL)

    @field_validator("answers", mode="before")
    @classmethod
    def _order_answers(cls, kinds: object) -> object:
        return _in_order(kinds, ANSWERS)

    @field_validator("languages")
    @classmethod
    def _order_languages(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        if bad := [code for code in codes if not LANGUAGE.fullmatch(code)]:
            raise ValueError(f"Unknown language {bad[0]!r}. Use codes of ISO 639-1, such as en.")
        return tuple(sorted(set(codes)))

    @model_validator(mode="after")
    def _agree(self) -> Filters:
        if self.personal_data is not PersonalData.KEEP and not self.personal_kinds:
            raise ValueError("personal_kinds is empty. Give kinds, or leave it out for all.")
        least, most = self.min_characters, self.max_characters
        if least is not None and most is not None and least > most:
            raise ValueError(
                f"min_characters is {least:,}, above max_characters, {most:,}. Exchange them, or "
                "leave one out."
            )
        return self

    @property
    def is_active(self) -> bool:
        """True if any filter is chosen."""
        return bool(
            self.near_duplicates
            or self.contaminates
            or self.personal_data is not PersonalData.KEEP
            or self.answers
            or self.languages
            or self.min_characters is not None
            or self.max_characters is not None
        )

    def require_some(self) -> None:
        """Raise Invalid if no filter is chosen."""
        if not self.is_active:
            raise Invalid("No filter is chosen. Choose at least one.", field="filters")

    def sentences(self) -> list[str]:
        """Return what the filters do, one sentence for each."""
        said: list[str] = []
        is_default = self.similarity == DEFAULT_SIMILARITY
        least = "" if is_default else f", from a similarity of {self.similarity:.0%}"
        if self.near_duplicates:
            said.append(f"Removes near-duplicates{least}.")
        if self.contaminates is not None:
            said.append(f"Removes examples that are also in a validation dataset{least}.")
        if self.personal_data is not PersonalData.KEEP:
            verb = "Masks" if self.personal_data is PersonalData.MASK else "Removes examples with"
            every = self.personal_kinds == PERSONAL
            kinds = "personal data" if every else ", ".join(map(_plain, self.personal_kinds))
            said.append(f"{verb} {kinds}.")
        if self.answers:
            said.append(f"Removes examples with a {' or '.join(_plain(e) for e in self.answers)}.")
        if self.min_characters is not None:
            said.append(f"Removes examples with fewer than {self.min_characters:,} characters.")
        if self.max_characters is not None:
            said.append(f"Removes examples with more than {self.max_characters:,} characters.")
        if self.languages:
            said.append(f"Keeps examples in {', '.join(self.languages)}.")
        return said


def _in_order(kinds: object, allowed: tuple[Finding, ...]) -> object:
    """Return kinds in one order, so that equal choices are equal. Other types stay invalid."""
    if not isinstance(kinds, list | tuple):
        return kinds
    given = cast("Sequence[object]", kinds)
    if unknown := [kind for kind in given if kind not in allowed]:
        raise ValueError(f"{unknown[0]!s} is not allowed here. Use {', '.join(allowed)}.")
    return tuple(kind for kind in allowed if kind in given)


def _plain(kind: Finding) -> str:
    return kind.replace("_", " ")
