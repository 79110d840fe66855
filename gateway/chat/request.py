"""What a client may ask of a model in a chat, in OpenAI's words, and what is not done here."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from domain.core.errors import Invalid
from infrastructure.generation import MAX_CHOICES, GenerationAsked

SEEDS = 2**62

DEEPEST = 32
"""Levels of lists and objects in a tool call; templates and encoders work recursively."""

STOPS = 16

IGNORED = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
"""What no answer depends on."""

# Values that ask for nothing; any other of these fields would silently not be done.
NOTHING: dict[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "modalities": (None, ["text"]),
    "reasoning_effort": (None, "none"),
    "verbosity": (None, "medium"),
}

Stop = Annotated[str, StringConstraints(min_length=1, max_length=500)]


class Part(BaseModel):
    """A part of a message's content."""

    type: str
    text: str | None = None


class Message(BaseModel):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class StreamOptions(BaseModel):
    """How an answer is streamed."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """The body of a request; fields that are not known are looked at when it is translated."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def asked(self, deployment_id: UUID, account_id: UUID) -> GenerationAsked:
        """What serving is asked; raises Invalid for what is not done."""
        for name, value in (self.model_extra or {}).items():
            if name not in IGNORED and value not in NOTHING.get(name, (None,)):
                raise Invalid(f"{name} is not supported; leave it out", field=name)
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        limit = self.max_completion_tokens
        return GenerationAsked(
            deployment_id=deployment_id,
            account_id=account_id,
            messages=[_plain(place, message) for place, message in enumerate(self.messages)],
            choices=self.n or 1,
            max_tokens=self.max_tokens if limit is None else limit,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=None if self.seed is None else self.seed % SEEDS,
            stop=stop,
        )

    @property
    def shows_usage(self) -> bool:
        """Whether the last chunk of a stream tells the tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


def _plain(place: int, message: Message) -> dict[str, Any]:
    """A message with its content as one text; raises Invalid."""
    for call in message.tool_calls or ():
        if _is_too_deep(call):
            raise Invalid(
                f"a tool call is nested more than {DEEPEST} levels deep; make it flatter",
                field=f"messages.{place}.tool_calls",
            )
    plain = message.model_dump(exclude_none=True)
    if message.role == "developer":
        plain["role"] = "system"  # the older word for it, which templates know
    if isinstance(message.content, list):
        for part in message.content:
            if part.type != "text" or part.text is None:
                raise Invalid(
                    f"only text is read; a part of messages.{place} is {part.type}",
                    field=f"messages.{place}.content",
                )
        plain["content"] = "".join(part.text or "" for part in message.content)
    if not plain.get("content") and not message.tool_calls and message.role != "assistant":
        plain["content"] = ""
    for call in message.tool_calls or ():
        if not isinstance(call.get("function"), dict):
            raise Invalid("a tool call has a function", field=f"messages.{place}.tool_calls")
    return plain


def _is_too_deep(call: dict[str, Any]) -> bool:
    """Return True if a call, or the JSON of its arguments, has too many levels."""
    levels: list[Any] = [call]
    function = call.get("function")
    arguments = function.get("arguments") if isinstance(function, dict) else None
    if isinstance(arguments, str):
        try:
            levels.append(json.loads(arguments))
        except RecursionError:
            return True
        except ValueError:
            pass  # no JSON; the model's template gets it as text
    for _ in range(DEEPEST):
        levels = [inner for each in levels for inner in _inside(each)]
    return any(isinstance(each, dict | list) for each in levels)


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
