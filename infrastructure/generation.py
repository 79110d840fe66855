"""Messages between the gateway and serving: the request of a chat, and the lines of its answer."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

GENERATE_PATH = "/generate"

MAX_CHOICES = 16


class GenerationRequest(BaseModel):
    """A chat to answer with a deployment."""

    model_config = ConfigDict(frozen=True)

    deployment_id: UUID
    account_id: UUID  # accounts take turns
    messages: list[dict[str, Any]]  # role, text content, and tool calls in OpenAI's format
    choices: int = Field(default=1, ge=1, le=MAX_CHOICES)  # independent answers
    max_tokens: int | None = None  # of an answer; None: up to the context length
    temperature: float = 1.0  # 0: the most likely token
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_end: bool = False  # continue to max_tokens, for measurements


FinishReason = Literal["stop", "length"]


class PromptRead(BaseModel):
    """The first line of an answer."""

    prompt_tokens: int


class TextDelta(BaseModel):
    """New text of an answer. Its last line has the finish reason and the number of tokens."""

    choice: int
    text: str
    finish_reason: FinishReason | None = None
    completion_tokens: int | None = None


class GenerationFailed(BaseModel):
    """The last line of an answer that failed."""

    failed: str  # message for the user


class GenerationRefused(BaseModel):
    """The body of a refusal, instead of lines."""

    code: str
    message: str
    field: str | None = None
