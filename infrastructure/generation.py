"""Messages between gateway and serving: a request for answers, and response lines."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

GENERATE_PATH = "/generate"

MAX_CHOICES = 16


class GenerationAsked(BaseModel):
    """A request for answers from a deployment."""

    model_config = ConfigDict(frozen=True)

    deployment_id: UUID
    account_id: UUID  # accounts take turns
    messages: list[dict[str, Any]]  # role and content as text, tool calls as OpenAI writes them
    choices: int = Field(default=1, ge=1, le=MAX_CHOICES)  # answers, sampled independently
    max_tokens: int | None = None  # of an answer; None: as many as fit the context
    temperature: float = 1.0  # 0: always the most likely token
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_end: bool = False  # generate up to max_tokens; for benchmarks


FinishReason = Literal["stop", "length"]


class PromptRead(BaseModel):
    """First line of a response: the number of prompt tokens."""

    prompt_tokens: int


class TextGrown(BaseModel):
    """More text of an answer. Its last line has the finish reason and the number of tokens."""

    choice: int
    text: str
    finish_reason: FinishReason | None = None
    completion_tokens: int | None = None


class GenerationFailed(BaseModel):
    """Last line of a response that failed."""

    failed: str  # message for the client


class GenerationRefused(BaseModel):
    """Body of a response with an HTTP error status."""

    code: str
    message: str
    field: str | None = None
