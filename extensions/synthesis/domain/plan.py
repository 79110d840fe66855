"""The approved plan of a synthesis. It contains no text that a user wrote."""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

from pydantic import FiniteFloat

from domain.billing.token_rates import FREE, TokenRates
from domain.core.value import Value

MOST_EXAMPLES = 10_000
MOST_TURNS = 8
MOST_ANSWER_TOKENS = 4096
MOST_ATTEMPTS = 10
BEST_SCORE = 10


class SourceKind(StrEnum):
    """Kinds of material from which examples are generated."""

    INSTRUCTIONS = "instructions"
    TOPICS = "topics"
    DOCUMENTS = "documents"
    SEED_DATASET = "seed_dataset"


class Generator(Value):
    """The model that writes or judges examples: a deployed model, or an external endpoint.

    The name of an external model is in the stored request, because a user wrote it.
    """

    deployment_id: UUID | None
    endpoint_id: UUID | None
    model: str | None  # name of the deployed model

    @property
    def external(self) -> bool:
        """True if another provider answers, and charges its customer directly."""
        return self.endpoint_id is not None


class SynthesisPlan(Value):
    """Everything that determines the examples, apart from the stored request.

    The form of a synthesis limits the numbers, so that a later release can change the limits.

    `request_ref` is the artifact with the instructions, topics and documents, whose hash the plan
    pins.
    """

    request_ref: str
    request_sha256: str
    sources: tuple[SourceKind, ...]
    seed_dataset_id: UUID | None
    seed_dataset_sha256: str | None  # of its normalized form
    examples: int
    turns: int  # most questions of one chat
    personas: bool  # each attempt draws a persona and a style of the user
    generator: Generator
    judged: bool
    least_score: int  # 0: the judge rejects nothing
    answer_tokens: int  # of one generated chat
    attempts: int  # for each wanted example, on average
    temperature: FiniteFloat
    top_p: FiniteFloat
    seed: int
    similarity: FiniteFloat  # of near-duplicates
    rates: TokenRates

    @property
    def choices(self) -> SynthesisPlan:
        """The plan without what its approval found. Approvals of one form have equal choices."""
        generator = self.generator.model_copy(update={"deployment_id": None})
        return self.model_copy(
            update={"generator": generator, "seed_dataset_sha256": None, "rates": FREE}
        )

    @property
    def most_attempts(self) -> int:
        """Number of attempts after which the generation ends, however many were accepted."""
        return self.attempts * self.examples
