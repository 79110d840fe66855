"""Schemas of syntheses."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from domain.core.target import MAX_URL
from domain.datasets.filters import DEFAULT_SIMILARITY, LEAST_SIMILARITY
from extensions.synthesis.domain.plan import (
    BEST_SCORE,
    MOST_ANSWER_TOKENS,
    MOST_ATTEMPTS,
    MOST_EXAMPLES,
    MOST_TURNS,
)
from extensions.synthesis.domain.request import (
    MOST_DOCUMENTS,
    MOST_INSTRUCTIONS,
    MOST_TOPICS,
    Document,
    Topic,
)
from extensions.synthesis.domain.synthesis import StopReason, SynthesisFailure, SynthesisStatus
from gateway.schemas import Money, ResponseModel

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Instructions = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=MOST_INSTRUCTIONS)
]
ModelName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


def whole(default: int, least: int, most: int, description: str) -> Any:
    """Return the field of a whole number within limits. Numbers in texts are refused."""
    return Field(default=default, ge=least, le=most, strict=True, description=description)


class SynthesisForm(BaseModel):
    """A synthesis to quote or approve."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "name": "support chats",
                    "instructions": "Customers of an online shop ask about their orders.",
                    "topics": ["returns", "delivery times", "invoices"],
                    "model": "smollm2-135m-instruct",
                    "examples": 200,
                }
            ]
        },
    )

    name: Name = Field(description="Display name of the dataset.")
    instructions: Instructions = Field(default="", description="What the chats are about.")
    topics: list[Topic] = Field(
        default=[], max_length=MOST_TOPICS, description="Topics, used in turn."
    )
    documents: list[Document] = Field(
        default=[],
        max_length=MOST_DOCUMENTS,
        description="Texts from which the chats must follow, used part by part.",
    )
    seed_dataset: UUID | None = Field(
        default=None, description="Dataset whose examples show the wanted form and tone."
    )
    system: Instructions = Field(default="", description="System message of every example.")
    model: ModelName | None = Field(
        default=None,
        examples=["smollm2-135m-instruct"],
        description="Deployed model that writes the examples: a base model or one of yours.",
    )
    endpoint: UUID | None = Field(
        default=None, description="External endpoint that writes the examples instead."
    )
    endpoint_model: ModelName | None = Field(
        default=None, description="Name of the model at the external endpoint."
    )
    examples: int = whole(200, 2, MOST_EXAMPLES, "Wanted examples.")
    turns: int = whole(1, 1, MOST_TURNS, "Most questions of one chat.")
    personas: bool = Field(
        default=True,
        strict=True,
        description="Each attempt draws a persona and a style of the user. Small models write "
        "better chats without them.",
    )
    judge: bool = Field(
        default=True,
        strict=True,
        description="The same model also says whether each example is helpful, and scores it.",
    )
    least_score: int = whole(
        6,
        0,
        BEST_SCORE,
        "Lowest accepted score, from 1 to 10. An unhelpful chat has 1, so that 2 accepts all "
        "helpful ones. With 0, the judge rejects nothing.",
    )
    answer_tokens: int = whole(512, 32, MOST_ANSWER_TOKENS, "Most tokens of one generated chat.")
    attempts: int = whole(3, 1, MOST_ATTEMPTS, "Most attempts for each wanted example, on average.")
    temperature: float = Field(default=0.9, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(
        default=0.95,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Probability mass of the most likely tokens to sample from.",
    )
    seed: int = whole(0, 0, 2**31 - 1, "Seed of the drawn material.")
    similarity: float = Field(
        default=DEFAULT_SIMILARITY,
        ge=LEAST_SIMILARITY,
        le=DEFAULT_SIMILARITY,
        allow_inf_nan=False,
        description="Similarity from which an example counts as a duplicate of another one. The "
        "default is that of the quality report.",
    )
    max_cost: str | None = Field(
        default=None,
        max_length=20,
        examples=["2.50"],
        description="Maximum cost in dollars. By default, the upper bound of the range.",
    )


class SynthesisEstimateResponse(ResponseModel):
    """The price of a synthesis before its approval."""

    low: Money
    high: Money = Field(description="The generation pauses before it costs more.")
    external: bool = Field(
        description="True if another provider generates the examples. EcoLink then charges "
        "nothing, and the provider charges you."
    )
    prompt_price: Money = Field(description="Price of one million tokens that the model reads.")
    completion_price: Money = Field(
        description="Price of one million tokens that the model generates."
    )
    most_attempts: int = Field(description="Number of attempts after which the generation ends.")
    balance: Money
    allowed: bool = Field(description="True if the balance covers the upper bound.")


class SynthesisCounts(ResponseModel):
    """Numbers of attempts so far, by outcome."""

    attempts: int
    accepted: int
    invalid: int = Field(description="Answers that are no chat, or are cut off.")
    rejected: int = Field(description="Chats that are unhelpful, or have a low score.")
    duplicates: int = Field(description="Chats that repeat another one.")


class SynthesisResponse(ResponseModel):
    """A synthesis with its progress."""

    id: UUID
    name: str | None = Field(examples=["support chats"])
    status: SynthesisStatus
    pause_reason: StopReason | None
    pause_status: int | None = Field(
        description="Last HTTP status of the model, if that is why the generation paused."
    )
    failure: SynthesisFailure | None
    explanation: str | None = Field(
        description="Sentence that explains a pause or a failure, and what to do."
    )
    examples: int = Field(description="Wanted examples.")
    counts: SynthesisCounts
    model: str | None = Field(description="Deployed model, or null for an external endpoint.")
    endpoint_id: UUID | None
    prompt_tokens: int
    completion_tokens: int
    cost: Money
    low: Money
    high: Money
    max_cost: Money
    edited: int
    removed: int
    eta_seconds: int | None = Field(
        description="Estimated seconds until all examples are accepted, or null."
    )
    dataset_id: UUID | None
    approved_at: datetime
    changed_at: datetime


class ExampleMessage(BaseModel):
    """A message of an example."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, StringConstraints(min_length=1, max_length=100_000)]


class ExampleResponse(ResponseModel):
    """A generated example, as edited, with its origin."""

    number: int = Field(description="Number of the example, from 1.")
    messages: list[ExampleMessage]
    edited: bool
    removed: bool
    origin: dict[str, Any] = Field(
        description="Attempt, drawn material, prompt hash, model, parameters and score."
    )


class ExampleEdit(BaseModel):
    """New messages of an example."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "messages": [
                        {"role": "user", "content": "Where is my order?"},
                        {"role": "assistant", "content": "It arrives tomorrow."},
                    ]
                }
            ]
        },
    )

    messages: list[ExampleMessage] = Field(min_length=2, max_length=64)


class ResumeForm(BaseModel):
    """Options of a resume."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{}]})

    max_cost: str | None = Field(
        default=None,
        max_length=20,
        description="New maximum cost in dollars. By default, it stays the same.",
    )


class FinishForm(BaseModel):
    """The dataset to create."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{}]})

    name: Name | None = Field(
        default=None, description="Display name. By default, that of the synthesis."
    )


Key = Annotated[str, StringConstraints(strip_whitespace=True, max_length=1000, pattern=r"^[!-~]*$")]
"""A key that an HTTP header can have: printable ASCII characters without spaces."""


class EndpointForm(BaseModel):
    """An external endpoint."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"name": "my provider", "url": "https://example.com/v1", "key": "sk-..."}]
        },
    )

    name: Name
    url: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_URL)
    ] = Field(description="Base URL, to which EcoLink appends `/chat/completions`.")
    key: Key = Field(
        default="",
        description="API key of the provider, in ASCII without spaces. No response shows it.",
    )


class EndpointKeyForm(BaseModel):
    """Another key of an external endpoint."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"key": "sk-..."}]})

    key: Key = Field(
        description="API key of the provider, in ASCII without spaces. No response shows it. An "
        "empty text removes the key."
    )


class EndpointResponse(ResponseModel):
    """An external endpoint, without its key."""

    id: UUID
    name: str
    url: str = Field(
        description="Without the scope `keys`, only the origin, because a URL may contain a token."
    )
    has_key: bool
    key_lost: bool = Field(
        description="True if a restore of a backup lost the key. Replace it, then resume the "
        "syntheses that paused."
    )
    created_at: datetime
