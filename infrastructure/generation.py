"""What the gateway asks of serving, and what serving tells it line by line while it answers."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

GENERATE_PATH = "/generate"

MAX_CHOICES = 16


class GenerationAsked(BaseModel):
    """A chat to be answered by what a deployment serves."""

    model_config = ConfigDict(frozen=True)

    deployment_id: UUID
    account_id: UUID  # who asks; accounts take turns
    messages: list[dict[str, Any]]  # role and content as text, tool calls as OpenAI writes them
    choices: int = Field(default=1, ge=1, le=MAX_CHOICES)  # answers, each drawn by itself
    max_tokens: int | None = None  # of an answer; None: as many as the context has room for
    temperature: float = 1.0  # 0: the likeliest token
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_end: bool = False  # go on to max_tokens; for measurements


FinishReason = Literal["stop", "length"]


class PromptRead(BaseModel):
    """The first line of an answer: the prompt's tokens."""

    prompt_tokens: int


class TextGrown(BaseModel):
    """More of an answer; the last line of it says why it ended and how many tokens it has."""

    choice: int
    text: str
    finish_reason: FinishReason | None = None
    completion_tokens: int | None = None


class GenerationFailed(BaseModel):
    """The last line of an answer that broke off."""

    failed: str  # a sentence for the one who asked


class GenerationRefused(BaseModel):
    """Why serving answers with no lines at all, beside an HTTP status."""

    code: str
    message: str
    field: str | None = None
