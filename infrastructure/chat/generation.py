"""Messages between the gateway and serving: a chat request, and the lines of the response."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

GENERATE_PATH = "/generate"

MAX_CHOICES = 16


class GenerationRequest(BaseModel):
    """A chat request to a deployment."""

    model_config = ConfigDict(frozen=True)

    deployment_id: UUID
    account_id: UUID  # for the fair queue
    messages: list[dict[str, Any]]  # role, text content, and tool calls in OpenAI's format
    tools: list[dict[str, Any]] | None = None  # definitions in OpenAI's format
    choices: int = Field(default=1, ge=1, le=MAX_CHOICES)  # number of independent answers
    max_tokens: int | None = None  # of each answer; None: up to the context length
    temperature: float = 1.0  # 0: always the most likely token
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    response_schema: dict[str, Any] | None = None  # JSON schema of the answer; None: any text
    ignore_end: bool = False  # True: generate exactly max_tokens tokens, for benchmarks
    keepalive: bool = False  # True: the gateway understands KeepAlive lines


FinishReason = Literal["stop", "length", "tool_calls"]


class ToolCall(BaseModel):
    """A call of a tool. `arguments` is a JSON object as text."""

    id: str
    name: str
    arguments: str


class PromptRead(BaseModel):
    """The first line of a response."""

    prompt_tokens: int
    keepalive_seconds: float | None = None
    """Longest pause between two lines of a process that works. None: no KeepAlive lines."""


class KeepAlive(BaseModel):
    """A line without text, which shows that the process works while the answer waits."""

    keepalive: Literal[True]


class TextDelta(BaseModel):
    """New text of an answer. The last one has the finish reason, tokens and tool calls."""

    choice: int
    text: str
    finish_reason: FinishReason | None = None
    completion_tokens: int | None = None
    tool_calls: list[ToolCall] | None = None


class GenerationFailed(BaseModel):
    """The last line of a failed response."""

    failed: str  # message for the user


class GenerationRefused(BaseModel):
    """The response body of a rejected request."""

    code: str
    message: str
    field: str | None = None
