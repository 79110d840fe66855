"""What the OpenAPI document says of an answered chat."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from gateway.schemas import Answer


class AnswerMessage(Answer):
    """What the model says."""

    role: Literal["assistant"]
    content: str
    refusal: None


class AnswerChoice(Answer):
    """One of the answers that were asked for."""

    index: int = Field(examples=[0])
    message: AnswerMessage
    logprobs: None
    finish_reason: Literal["stop", "length"]


class Usage(Answer):
    """Tokens that were read and said."""

    prompt_tokens: int = Field(examples=[12])
    completion_tokens: int = Field(examples=[20])
    total_tokens: int = Field(examples=[32])


class ChatCompletion(Answer):
    """An answered chat; as a stream, each event is a piece of it."""

    id: str = Field(examples=["chatcmpl-0b0f8f5c3a4e5d0c9a4d0e6b1c2d3e4f"])
    object: Literal["chat.completion"]
    created: int = Field(examples=[1_795_624_800], description="Seconds since 1970.")
    model: str = Field(examples=["ft:smollm2-135m-instruct:0b0f8f5c3a4e"])
    system_fingerprint: None
    choices: list[AnswerChoice]
    usage: Usage


ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ChatCompletion,
        "description": "The answer; with `stream`, server-sent events up to `data: [DONE]`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}
